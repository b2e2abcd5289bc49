// Antialiased bicubic resampling, bit-equal to Pillow >= 13 (`Image.resize(size, BICUBIC)`).
#pragma once

#include <memory>

#include "image.h"

namespace fastimae {

// A processor with one of these also has those before it.
enum class Simd { kPlain, kAvx2, kAvx512Vnni };

// The best that this processor supports.
Simd best_simd();

// Pillow's choice, which saves work on tall images. It rounds between the passes, so order matters.
bool is_vertical_first(const View& in, int height, int width);

// Resizes images, one at a time; reuses its tables and buffers. One per thread.
class Resizer {
 public:
  explicit Resizer(Simd simd = best_simd());
  ~Resizer();
  Resizer(const Resizer&) = delete;
  Resizer& operator=(const Resizer&) = delete;

  // Resizes uint8 pixels of 1 or 3 channels.
  //
  // Writes uint8 [height, width, channels], mirrored left to right if `flip`. `channels` is
  // in.channels, or 3 for a gray image, whose value is written three times. Throws std::bad_alloc.
  void resize(const View& in, uint8_t* out, int height, int width, int channels, bool flip);

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace fastimae
