#include "resize_blocks.h"

#include <algorithm>
#include <cstring>

namespace fastimae {

// Chooses where blocks begin; false if 64 bytes do not reach all taps of a group.
bool Blocks::place(const Table& table, int in_channels, int out_channels) {
  const int columns = static_cast<int>(table.start.size()) * out_channels;
  start.clear();
  for (int column = 0; column < columns; column += lanes) {
    const int last = std::min(column + lanes, columns) - 1;
    // Positions decrease if the image is mirrored.
    const auto [low, high] =
        std::minmax(table.start[column / out_channels], table.start[last / out_channels]);
    if ((high - low + kGroup) * in_channels > static_cast<int>(sizeof(Block))) return false;
    start.push_back(low * in_channels);
  }
  return true;
}

void Blocks::fill(const Table& table, int in_channels, int out_channels) {
  lanes = kMostLanes;
  while (!place(table, in_channels, out_channels)) --lanes;

  const int columns = static_cast<int>(table.start.size()) * out_channels;
  const size_t stride = 1 + size_t{kDigits} * table.groups;
  data.resize(start.size() * stride);
  Block* block = data.data();
  int x = 0, channel = 0, lane = 0;
  size_t number = 0;
  // The lanes after the last column do not matter.
  for (int column = 0; column < columns; ++column) {
    const uint32_t first = table.start[x] * in_channels + channel % in_channels - start[number];
    const uint32_t bytes = first * 0x01010101 + in_channels * 0x03020100;  // of taps 3, 2, 1, 0
    std::memcpy(block->bytes + lane * sizeof bytes, &bytes, sizeof bytes);
    const int32_t* weights = table.weights_of(x);
    for (Block* digits = block + 1; digits < block + stride; digits += kDigits, weights += kGroup)
      for (int i = 0; i < kDigits; ++i)
        std::memcpy(digits[i].bytes + lane * sizeof weights[i], weights + i, sizeof weights[i]);
    if (++channel == out_channels) channel = 0, ++x;
    if (++lane == lanes) lane = 0, ++number, block += stride;
  }
}

}  // namespace fastimae
