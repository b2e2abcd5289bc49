// The inner loops of the entropy decoder.
#pragma once

#include <cstddef>
#include <cstdint>

#include "huffman_tables.h"

namespace fastimae {

constexpr int kBlockSize = 64;  // coefficients

// The kinds of blocks in a row, from left to right.
struct RowLayout {
  int block_count;
  const TablePair* const* tables;  // of each block
  const uint8_t* components;       // of each block, 0..3
};

// A row of MCUs, or the left part of one.
struct RowJob {
  const uint8_t* bytes;  // without stuffing, followed by kZerosBehind zero bytes
  uint64_t bit_count;    // of `bytes`
  uint64_t position;     // in bits: the row's start and, once decoded, its end
  uint16_t dc[4];        // DC predictors there, modulo 2^16
  // kBlockSize coefficients each, initially zero; written in natural order, not dequantised.
  int16_t* blocks;
  const char* problem;  // nullptr if there is none
};

// Decodes `count` rows, several at a time; or skips them, if `blocks` of all jobs is nullptr.
void decode_rows(const RowLayout& layout, RowJob* jobs, int count);

}  // namespace fastimae
