// The memory layout of the resize weights of an axis.
#pragma once

#include <cstdint>
#include <vector>

#include "resize_taps.h"

namespace fastimae {

constexpr int kGroup = 4;  // consecutive taps that are multiplied at once

// The groups of input positions that each output position is computed from.
struct Table {
  int groups = 0;                // most of any output position
  std::vector<int> start;        // [out] input position of the first group
  std::vector<int> count;        // [out] groups, 1..`groups`
  std::vector<int32_t> weights;  // [out, groups, kGroup]; see Kernels::pack

  // Lay out the table for `taps`, with all weights 0; then taps->weights points to where the others
  // go. Throw std::bad_alloc.

  // Starts are multiples of kGroup.
  void lay_out_vertical(int out, Taps* taps);
  // Groups end inside the `in` positions, unless these are too few; mirrored if `flip`.
  void lay_out_horizontal(int in, int out, bool flip, Taps* taps);

  const int32_t* weights_of(int x) const {
    return &weights[static_cast<size_t>(x) * groups * kGroup];
  }

 private:
  void clear(int out, int groups_each);
  void place(Taps* taps, int x, int first_start, int to);
};

}  // namespace fastimae
