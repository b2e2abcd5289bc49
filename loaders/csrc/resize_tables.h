// Where the weights of an axis lie in memory.
#pragma once

#include <cstdint>
#include <vector>

#include "resize_taps.h"

namespace fastimae {

constexpr int kGroup = 4;  // consecutive taps that are weighted at once

// Of which groups of input positions every output position is made.
struct Table {
  int groups = 0;                // the most that any output position has
  std::vector<int> start;        // [out] input position of the first group
  std::vector<int> count;        // [out] groups, 1..`groups`
  std::vector<int32_t> weights;  // [out, groups, kGroup]; see Kernels::pack

  // Lay out the table for `taps`, with weights 0 everywhere; taps->weights then says where the
  // others go. Throw std::bad_alloc.

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
