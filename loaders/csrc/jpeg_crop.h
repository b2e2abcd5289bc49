// Decoder for a rectangle of a JPEG file: libjpeg-turbo, touching as little as possible.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "image.h"

namespace fastimae {

// The reason for refusing an image over the pixel limit, worded as in loaders/images/limits.py.
std::string too_many(int64_t pixels, int64_t limit);

// The arguments of `JpegDecoder::decode`.
struct JpegRequest {
  const uint8_t* data;
  size_t size;
  int height, width;  // expected
  Window window;      // inside the image
};

// One per thread; reuses its buffers for all images.
class JpegDecoder {
 public:
  // own_entropy: use our Huffman decoder if possible, libjpeg's otherwise.
  // max_pixels: larger images are refused. Throws std::bad_alloc.
  explicit JpegDecoder(bool own_entropy, int64_t max_pixels);
  ~JpegDecoder();
  JpegDecoder(const JpegDecoder&) = delete;
  JpegDecoder& operator=(const JpegDecoder&) = delete;

  // Decodes the window to RGB, or to gray if the file is gray: the pixels are those of a full
  // decode, bit for bit. `view` is valid until the next call. `starts`: the known starts of MCU
  // rows; may be empty, and grows. If our Huffman decoder reports a problem, libjpeg decides.
  // Damage outside the decoded part goes unnoticed.
  Status decode(const JpegRequest& request, std::vector<RowStart>* starts, View* view);

  // Decodes all of a file of any size, to look for damage. Afterwards `starts` is complete if our
  // Huffman decoder can read the file, else empty.
  Status inspect(const uint8_t* data, size_t size, std::vector<RowStart>* starts);

  // Why the last call did not return kOk.
  const std::string& problem() const;

  // Time in our entropy decoder during the last call; libjpeg's cannot be measured separately.
  uint64_t entropy_nanoseconds() const;

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace fastimae
