// Types shared by the parts of the decode engine: windows, views of pixels, row starts, status.
#pragma once

#include <cstddef>
#include <cstdint>

namespace fastimae {

// SIMD code may read this many bytes past the end of any pixel buffer.
constexpr size_t kPadding = 64;

// A rectangle of an image, in pixels.
struct Window {
  int top, left, height, width;
};

// Interleaved pixels, not owned, with kPadding readable bytes after the last row.
struct View {
  const uint8_t* pixels;
  int height, width;
  int channels;
  ptrdiff_t stride;     // bytes from row to row
  int value_bytes = 1;  // 1 (uint8) or 2 (uint16)

  ptrdiff_t pixel_bytes() const { return ptrdiff_t{channels} * value_bytes; }
};

// The start of a row of MCUs in the entropy-coded data of a baseline JPEG.
struct RowStart {
  uint32_t bit;   // 8 * byte + bit (0 = most significant), byte counted from the start of the file
  int16_t dc[4];  // DC predictors of the components
};

// Why a sample cannot be used. loaders/native_library.py has the same numbers.
enum class Status : int32_t {
  kOk = 0,
  kDamaged = 1,      // the decoder complained: error, warning, premature end
  kMismatch = 2,     // the size differs from the file's table
  kChecksum = 3,     // the bytes are not the ones written
  kUnsupported = 4,  // left to Pillow: CMYK, 12 bits, tables or scans missing...
};

}  // namespace fastimae
