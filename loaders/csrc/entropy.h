// Our Huffman decoder for baseline JPEG files, plugged into libjpeg in place of its own.
//
// libjpeg still does everything else: markers, tables, dequantisation, IDCT, upsampling, colour.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include <cstdio>  // jpeglib.h needs it
#include <jpeglib.h>

#include "image.h"

namespace fastimae {

// One per thread.
class EntropyDecoder {
 public:
  EntropyDecoder();
  ~EntropyDecoder();
  EntropyDecoder(const EntropyDecoder&) = delete;
  EntropyDecoder& operator=(const EntropyDecoder&) = delete;

  // Takes over the entropy decoding of `info`, which has been through jpeg_start_decompress
  // and jpeg_crop_scanline, and whose source is the full file `data` of `size` bytes in memory.
  // From then on rows outside [first_row, last_row] and columns right of last_column may be decoded
  // as zeros. Rows and columns are 8 * max_v_samp_factor and 8 * max_h_samp_factor pixels wide,
  // also in files of one component.
  // `starts` are the known starts of the first MCU rows (MCU_rows_in_scan of jpeglib.h): it may be
  // empty, grows during decoding, and must outlive it. It is not trusted.
  // libjpeg's source does not advance, so finish with jpeg_abort_decompress.
  // Returns false, and changes nothing, for files that only libjpeg can read: progressive,
  // arithmetic, several scans... Throws std::bad_alloc.
  bool attach(jpeg_decompress_struct* info, const uint8_t* data, size_t size, int first_row,
              int last_row, int last_column, std::vector<RowStart>* starts);

  // The problem with the data decoded since `attach`, or nullptr. Data that could not be decoded
  // becomes zeros.
  const char* problem() const;

  // Nanoseconds spent decoding since `attach`.
  uint64_t nanoseconds() const;

 private:
  struct Impl;
  Impl* impl_;
};

// Whether libjpeg gives the same pixels with our decoder as with its own: `attach` relies on its
// internals. Call this once, before the first `attach`.
bool entropy_self_test();

}  // namespace fastimae
