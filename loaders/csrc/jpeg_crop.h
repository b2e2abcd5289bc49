// Decodes a rectangle of a JPEG file with libjpeg-turbo, touching as little of it as possible.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "image.h"

namespace fastimae {

// What is said of an image of more pixels than the limit; as loaders/limits.py says it.
std::string too_many(int64_t pixels, int64_t limit);

// What is asked of `JpegDecoder::decode`.
struct JpegRequest {
  const uint8_t* data;
  size_t size;
  int height, width;  // that the image should have
  Window window;      // inside the image
};

// One per thread; keeps its buffers from image to image.
class JpegDecoder {
 public:
  // own_entropy: use our Huffman decoder where it can be used, libjpeg's otherwise.
  // max_pixels: larger images are refused. Throws std::bad_alloc.
  explicit JpegDecoder(bool own_entropy, int64_t max_pixels);
  ~JpegDecoder();
  JpegDecoder(const JpegDecoder&) = delete;
  JpegDecoder& operator=(const JpegDecoder&) = delete;

  // Decodes the window to RGB, or to gray if the file is gray: the pixels are those of a full
  // decode, bit for bit. `view` is valid until the next call. `starts`: where MCU rows start, as
  // far as known; may be empty, and grows. What our Huffman decoder complains of, libjpeg judges.
  // Damage outside of what is decoded goes unnoticed.
  Status decode(const JpegRequest& request, std::vector<RowStart>* starts, View* view);

  // Decodes all of a file of any size, looking for damage. `starts` is complete afterwards if our Huffman decoder
  // reads the file, else empty.
  Status inspect(const uint8_t* data, size_t size, std::vector<RowStart>* starts);

  // Why the last call did not return kOk.
  const std::string& problem() const;

  // Spent in entropy decoding during the last call, if our decoder did it; libjpeg's cannot be told
  // apart.
  uint64_t entropy_nanoseconds() const;

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace fastimae
