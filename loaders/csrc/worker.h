// A worker: one thread's decoder, resizer and buffers, which turn a sample into crops.
#pragma once

#include <atomic>
#include <string>
#include <vector>

#include "dataset.h"
#include "image.h"
#include "jpeg_crop.h"
#include "pixel_buffer.h"
#include "resize.h"
#include "resize_bands.h"

namespace fastimae {

// The form of every crop.
struct Output {
  int height, width;   // pixels
  int channels;        // 1 (gray) or those of the samples
  int value_bytes;     // those of the samples
  int64_t max_pixels;  // larger images are refused
  bool own_entropy;    // use our Huffman decoder

  size_t bytes() const { return size_t(height) * width * channels * value_bytes; }
};

// Nanoseconds, and number of images decoded.
struct StageTimes {
  uint64_t read = 0;     // the first check of a sample: checksums, and so reading the file
  uint64_t entropy = 0;  // Huffman decoding, if ours does it
  uint64_t pixels = 0;   // the rest of decoding: IDCT, upsampling, colour
  uint64_t resize = 0;
  uint64_t images = 0;
};

// One crop of a sample.
struct Crop {
  Window window;
  bool flip;
  uint8_t* out;
};

class Worker {
 public:
  Worker(Dataset& dataset, const Output& output);

  // Makes all `crops` of a sample while decoding it once. Throws std::bad_alloc.
  Status make_crops(int64_t sample, const std::vector<Crop>& crops);

  // Why the last sample could not be used.
  const std::string& problem() const { return problem_; }

  // The times so far; may be called by any thread.
  StageTimes times() const;

 private:
  Status check(int64_t index, const Sample& sample);
  Status decode(int64_t index, const Sample& sample, const Window& window, View* view);
  void resize(const View& view, const Crop& crop);
  void copy_raw(const Sample& sample, const Window& window, View* view);
  void to_gray(View* view);

  Dataset& dataset_;
  const Output output_;
  JpegDecoder jpeg_;
  Resizer resizer_;
  BandResizer band_resizer_;
  std::vector<RowStart> starts_;
  PixelBuffer raw_, gray_;
  std::string problem_;
  std::atomic<uint64_t> read_{0}, entropy_{0}, pixels_{0}, resize_{0}, images_{0};
};

}  // namespace fastimae
