// The horizontal pass as permutations of bytes.
//
// A block computes several neighbouring (pixel, channel)s at once, one per lane. A permutation of
// the 64 bytes from its first tap on brings four taps to each lane; the next group of four is the
// same permutation of the bytes four positions further.
#pragma once

#include <cstdint>
#include <vector>

#include "resize_tables.h"

namespace fastimae {

struct alignas(64) Block {
  uint8_t bytes[64];
};

struct Blocks {
  static constexpr int kMostLanes = sizeof(Block) / kGroup;
  static constexpr int kDigits = 3;  // 32-bit numbers with the weights of a group

  int lanes = 0;            // in use; fewer than kMostLanes if 64 bytes do not suffice
  std::vector<int> start;   // [blocks] byte of the row
  std::vector<Block> data;  // [blocks, 1 + groups * kDigits]: a permutation; digits by lanes

  // From a packed table and the channels of rows and quads, 1 or 3. Throws std::bad_alloc.
  void fill(const Table& table, int in_channels, int out_channels);

 private:
  bool place(const Table& table, int in_channels, int out_channels);
};

}  // namespace fastimae
