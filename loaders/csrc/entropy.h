// Our Huffman decoder for baseline JPEG files, in place of libjpeg's.
//
// libjpeg goes on doing everything else: markers, tables, dequantisation, IDCT, upsampling, colour.
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
  // and jpeg_crop_scanline, and whose source is the whole file `data` of `size` bytes in memory.
  // From then on rows outside [first_row, last_row] and columns right of last_column may be decoded
  // as zeros. Rows and columns are 8 * max_v_samp_factor and 8 * max_h_samp_factor pixels wide,
  // also in files of one component.
  // `starts` are those of the first MCU rows (MCU_rows_in_scan of jpeglib.h) that are known: may be
  // empty, is added to as decoding goes on, and must outlive the decoding. It is not trusted.
  // libjpeg's source stays where it is, so end with jpeg_abort_decompress.
  // Returns false, and changes nothing, for files that only libjpeg reads: progressive,
  // arithmetic, of several scans... Throws std::bad_alloc.
  bool attach(jpeg_decompress_struct* info, const uint8_t* data, size_t size, int first_row,
              int last_row, int last_column, std::vector<RowStart>* starts);

  // What was wrong with the data decoded since `attach`, or nullptr. What could not be decoded is
  // zeros.
  const char* problem() const;

  // Nanoseconds spent decoding since `attach`.
  uint64_t nanoseconds() const;

 private:
  struct Impl;
  Impl* impl_;
};

// Whether libjpeg, whose insides `attach` counts on, gives the same pixels with our decoder as with
// its own. To be asked once, before the first `attach`.
bool entropy_self_test();

}  // namespace fastimae
