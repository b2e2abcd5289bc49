// A buffer for rows of pixels that is reused from image to image.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>

#include "image.h"

namespace fastimae {

class PixelBuffer {
 public:
  // Makes room for `rows` of `bytes` each; the content is lost. Throws std::bad_alloc.
  void reserve(size_t rows, size_t bytes) {
    stride_ = (bytes + kAlignment - 1) / kAlignment * kAlignment;
    const size_t needed = rows * stride_ + kAlignment + kOffset + kPadding;
    if (needed > capacity_ || capacity_ > kKeptBytes) {
      memory_.reset();
      memory_.reset(new uint8_t[needed]);
      capacity_ = needed;
    }
  }

  uint8_t* row(size_t number) {
    const auto start = reinterpret_cast<uintptr_t>(memory_.get());
    const uintptr_t aligned = (start + kAlignment - 1) / kAlignment * kAlignment;
    return memory_.get() + (aligned - start) + kOffset + number * stride_;
  }

  ptrdiff_t stride() const { return static_cast<ptrdiff_t>(stride_); }

 private:
  static constexpr size_t kAlignment = 64;
  // Rows must not be 32-byte aligned: libjpeg-turbo would write them past the cache, and resampling
  // would have to fetch them from memory again.
  static constexpr size_t kOffset = 8;
  // A larger buffer is not kept for the next image.
  static constexpr size_t kKeptBytes = 64 << 20;

  std::unique_ptr<uint8_t[]> memory_;
  size_t capacity_ = 0;
  size_t stride_ = 0;
};

}  // namespace fastimae
