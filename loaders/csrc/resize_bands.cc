#include "resize_bands.h"

#include <algorithm>
#include <cmath>

#include "resize.h"

namespace fastimae {
namespace {

// How sums of one type start, and what a pass stores of them.
int32_t start_of(const int32_t*) { return 1 << (kWeightBits - 1); }
double start_of(const double*) { return 0.0; }

void store(int32_t sum, uint8_t* to) {
  *to = static_cast<uint8_t>(std::clamp(sum >> kWeightBits, 0, 255));
}
void store(double sum, float* to) { *to = static_cast<float>(sum); }
void store(double sum, uint16_t* to) {
  const float rounded = std::nearbyint(static_cast<float>(sum));
  *to = static_cast<uint16_t>(std::clamp(rounded, 0.0f, 65535.0f));
}

// Pillow's way to the integer nearest to a weight.
void put(double weight, int32_t* to) {
  *to = static_cast<int32_t>(weight * (1 << kWeightBits) + (weight < 0.0 ? -0.5 : 0.5));
}
void put(double weight, double* to) { *to = weight; }

// Pillow's bicubic filter, with its operations in its order.
double cubic(double at) {
  at = at < 0.0 ? -at : at;
  if (at < 1.0) return (1.5 * at - 2.5) * at * at + 1.0;
  return at < 2.0 ? (((at - 5.0) * at + 8.0) * at - 4.0) * -0.5 : 0.0;
}

// Channels that are summed at once, in registers: of a fixed number, so that the compiler unrolls
// and vectorises the loops.
constexpr int kLanes = 4;

// kCount channels of one pixel; `step` values further is the next tap.
template <int kCount, class In, class Sum, class Out>
void weigh(const In* pixel, const Sum* weights, int count, int step, Out* to) {
  Sum sums[kCount];
  std::fill_n(sums, kCount, start_of(sums));
  for (int tap = 0; tap < count; ++tap, pixel += step)
    for (int c = 0; c < kCount; ++c) sums[c] += pixel[c] * weights[tap];
  for (int c = 0; c < kCount; ++c) store(sums[c], to + c);
}

// A row of pixels, weighted into `width` others.
template <class Axis, class In, class Out>
void pass_along(const Axis& axis, const In* row, int width, int channels, bool flip, Out* out) {
  for (int x = 0; x < width; ++x) {
    const In* pixel = row + static_cast<ptrdiff_t>(axis.first[x]) * channels;
    const auto* weights = &axis.weights[axis.start[x]];
    Out* to = out + static_cast<ptrdiff_t>(flip ? width - 1 - x : x) * channels;
    int c = 0;
    for (; c + kLanes <= channels; c += kLanes)
      weigh<kLanes>(pixel + c, weights, axis.count[x], channels, to + c);
    for (; c < channels; ++c) weigh<1>(pixel + c, weights, axis.count[x], channels, to + c);
  }
}

// Rows of `columns` values, weighted into row `y`; row(number) is where one starts.
template <class Axis, class Row, class Sum, class Out>
void pass_down(const Axis& axis, const Row& row, int y, size_t columns,
               Sum* __restrict sums, Out* __restrict out) {
  std::fill_n(sums, columns, start_of(sums));
  const Sum* weights = &axis.weights[axis.start[y]];
  for (int tap = 0; tap < axis.count[y]; ++tap) {
    const auto* in = row(axis.first[y] + tap);
    const Sum weight = weights[tap];
    for (size_t i = 0; i < columns; ++i) sums[i] += in[i] * weight;
  }
  for (size_t i = 0; i < columns; ++i) store(sums[i], out + i);
}

}  // namespace

template <class Weight>
void BandResizer::lay_out(int in, int out, Axis<Weight>* axis) {
  taps_.find(in, out);
  axis->first.assign(taps_.first.begin(), taps_.first.begin() + out);
  axis->count.assign(taps_.count.begin(), taps_.count.begin() + out);
  axis->start.resize(out);
  axis->weights.resize(static_cast<size_t>(out) * taps_.most);
  exact_.resize(taps_.most);
  size_t start = 0;
  for (int x = 0; x < out; ++x) {
    double sum = 0.0;
    for (int tap = 0; tap < axis->count[x]; ++tap) {
      const double position = axis->first[x] + tap;
      exact_[tap] = cubic((position - taps_.center[x] + 0.5) * taps_.inverse_width);
      sum += exact_[tap];
    }
    axis->start[x] = start;
    for (int tap = 0; tap < axis->count[x]; ++tap)
      put(exact_[tap] / sum, &axis->weights[start++]);
  }
}

template <class Value, class Weight, class Between>
void BandResizer::run(const View& in, Value* out, int height, int width, bool flip,
                      Plan<Value, Weight, Between>* plan) {
  lay_out(in.width, width, &plan->horizontal);
  lay_out(in.height, height, &plan->vertical);
  const size_t in_columns = size_t(in.width) * in.channels, columns = size_t(width) * in.channels;
  const auto row = [&](int y) {
    return reinterpret_cast<const Value*>(in.pixels + y * in.stride);
  };
  plan->sums.resize(std::max(in_columns, columns));
  Weight* const sums = plan->sums.data();
  if (is_vertical_first(in, height, width)) {
    plan->between.resize(in_columns);
    for (int y = 0; y < height; ++y) {
      pass_down(plan->vertical, row, y, in_columns, sums, plan->between.data());
      pass_along(plan->horizontal, plan->between.data(), width, in.channels, flip,
                 out + y * columns);
    }
    return;
  }
  plan->between.resize(in.height * columns);
  Between* const between = plan->between.data();
  for (int y = 0; y < in.height; ++y)
    pass_along(plan->horizontal, row(y), width, in.channels, flip, between + y * columns);
  const auto shrunk = [&](int y) -> const Between* { return between + y * columns; };
  for (int y = 0; y < height; ++y)
    pass_down(plan->vertical, shrunk, y, columns, sums, out + y * columns);
}

void BandResizer::resize(const View& in, uint8_t* out, int height, int width, bool flip) {
  if (in.value_bytes == 1)
    run(in, out, height, width, flip, &bytes_);
  else
    run(in, reinterpret_cast<uint16_t*>(out), height, width, flip, &words_);
}

}  // namespace fastimae
