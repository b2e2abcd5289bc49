// Antialiased bicubic resampling of any number of channels, of 8 or 16 bits: plain loops, which
// compilers vectorise. 3 or 1 channels of 8 bits have resize.h, which is faster.
#pragma once

#include <cstdint>
#include <vector>

#include "image.h"
#include "resize_taps.h"

namespace fastimae {

// Resizes images, one at a time; reuses its tables and buffers. One per thread.
//
// 8 bits: Pillow's integer arithmetic, so each channel is bit-equal to a gray image. 16 bits: that
// of Pillow's mode F, double sums and float between the passes, then rounded to even and clipped.
// loaders/images/bands.py is the same.
class BandResizer {
 public:
  // Writes [height, width, in.channels] values of in.value_bytes (1 or 2), mirrored left to right
  // if `flip`. `out` is aligned to them. Throws std::bad_alloc.
  void resize(const View& in, uint8_t* out, int height, int width, bool flip);

 private:
  // The taps of each output position along an axis, and their weights one after the other.
  template <class Weight>
  struct Axis {
    std::vector<int> first, count;
    std::vector<size_t> start;
    std::vector<Weight> weights;
  };
  // What both passes need for one type of values.
  template <class Value, class Weight, class Between>
  struct Plan {
    Axis<Weight> horizontal, vertical;
    std::vector<Between> between;
    std::vector<Weight> sums;
  };

  template <class Weight>
  void lay_out(int in, int out, Axis<Weight>* axis);
  template <class Value, class Weight, class Between>
  void run(const View& in, Value* out, int height, int width, bool flip,
           Plan<Value, Weight, Between>* plan);

  Taps taps_;
  std::vector<double> exact_;
  Plan<uint8_t, int32_t, uint8_t> bytes_;
  Plan<uint16_t, double, float> words_;
};

}  // namespace fastimae
