// What the parts of the decode engine hand each other.
#pragma once

#include <cstddef>
#include <cstdint>

namespace fastimae {

// SIMD code may read so many bytes past the end of any buffer of pixels.
constexpr size_t kPadding = 64;

// A rectangle of an image, in pixels.
struct Window {
  int top, left, height, width;
};

// Interleaved uint8 pixels that somebody else owns, kPadding readable bytes behind the last row.
struct View {
  const uint8_t* pixels;
  int height, width;
  int channels;      // 1 or 3
  ptrdiff_t stride;  // bytes from row to row
};

// Where one row of MCUs starts in the entropy-coded data of a baseline JPEG.
struct RowStart {
  uint32_t bit;   // 8 * byte + bit (0 = most significant), byte counted from the start of the file
  int16_t dc[4];  // DC predictors of the components
};

// Why a sample cannot be shown. The numbers are known to loaders/native.py.
enum class Status : int32_t {
  kOk = 0,
  kDamaged = 1,      // the decoder complained: error, warning, premature end
  kMismatch = 2,     // another size than the file's table says
  kChecksum = 3,     // the bytes are not those that were written
  kUnsupported = 4,  // for Pillow to read or to refuse: CMYK, 12 bits, tables or scans missing...
};

}  // namespace fastimae
