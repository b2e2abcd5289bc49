// The inner loops of the entropy decoder.
#pragma once

#include <cstddef>
#include <cstdint>

#include "huffman_tables.h"

namespace fastimae {

constexpr int kBlockSize = 64;  // coefficients

// What the blocks of a row are, from left to right.
struct RowLayout {
  int block_count;
  const TablePair* const* tables;  // of each block
  const uint8_t* components;       // of each block, 0..3
};

// A row of MCUs, or the left part of one.
struct RowJob {
  const uint8_t* bytes;  // without stuffing, kZerosBehind bytes of zeros behind the end
  uint64_t bit_count;    // of `bytes`
  uint64_t position;     // in bits: where the row starts, and, once decoded, where it ends
  uint16_t dc[4];        // DC predictors there, modulo 2^16
  // kBlockSize coefficients each, zeros before; filled in natural order, not dequantised.
  int16_t* blocks;
  const char* problem;  // nullptr if all is well
};

// Decodes `count` rows, several at a time. With `blocks` of all jobs nullptr skips them.
void decode_rows(const RowLayout& layout, RowJob* jobs, int count);

}  // namespace fastimae
