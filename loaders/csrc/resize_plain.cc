// The resize passes in plain C++, for processors without anything better.
#include <algorithm>

#include "resize_kernels.h"
#include "resize_taps.h"

namespace fastimae {
namespace {

constexpr int32_t kHalf = 1 << (kWeightBits - 1);

void write_weights(Taps* taps) { weigh_taps<2>(taps); }

void pack(int32_t*, size_t) {}

void prepare(Horizontal*) {}

uint8_t to_byte(int32_t sum) {
  return static_cast<uint8_t>(std::clamp(sum >> kWeightBits, 0, 255));
}

// One output position of one row.
template <int kChannels>
void weigh(const uint8_t* pixels, const int32_t* weights, int groups, uint8_t* out) {
  int32_t sums[kChannels];
  std::fill_n(sums, kChannels, kHalf);
  for (; groups > 0; --groups)
    for (int tap = 0; tap < kGroup; ++tap, pixels += kChannels, ++weights)
      for (int c = 0; c < kChannels; ++c) sums[c] += pixels[c] * *weights;
  for (int c = 0; c < kChannels; ++c) out[c] = to_byte(sums[c]);
}

template <int kIn, int kOut>
void weigh_rows(const Table& table, const uint8_t* const rows[kQuad], uint8_t* quad) {
  const int32_t* weights = table.weights.data();
  for (const int start : table.start) {
    for (int row = 0; row < kQuad; ++row) {
      uint8_t pixel[kIn];
      weigh<kIn>(rows[row] + static_cast<ptrdiff_t>(start) * kIn, weights, table.groups, pixel);
      for (int c = 0; c < kOut; ++c) quad[kQuad * c + row] = pixel[c % kIn];
    }
    weights += table.groups * kGroup;
    quad += kQuad * kOut;
  }
}

void horizontal(const Horizontal& plan, const uint8_t* const rows[kQuad], uint8_t* quad) {
  if (plan.in_channels == 3)
    weigh_rows<3, 3>(plan.table, rows, quad);
  else if (plan.out_channels == 3)
    weigh_rows<1, 3>(plan.table, rows, quad);
  else
    weigh_rows<1, 1>(plan.table, rows, quad);
}

void vertical(const uint8_t* const* quads, const int32_t* weights, int count, int columns,
              uint8_t* row) {
  constexpr int kAtOnce = 64;
  for (int x = 0; x < columns; x += kAtOnce) {
    // Of fixed length, so that the compiler vectorises it; quads are padded to it.
    int32_t sums[kAtOnce];
    std::fill_n(sums, kAtOnce, kHalf);
    for (int group = 0; group < count; ++group) {
      const uint8_t* taps = quads[group] + kQuad * x;
      const int32_t* weight = weights + group * kGroup;
      for (int i = 0; i < kAtOnce; ++i, taps += kQuad)
        sums[i] += taps[0] * weight[0] + taps[1] * weight[1] + taps[2] * weight[2] +
                   taps[3] * weight[3];
    }
    const int left = std::min(kAtOnce, columns - x);
    for (int i = 0; i < left; ++i) row[x + i] = to_byte(sums[i]);
  }
}

void weave(const uint8_t* const rows[kQuad], int columns, uint8_t* quad) {
  for (int row = 0; row < kQuad; ++row) {
    const uint8_t* __restrict from = rows[row];
    uint8_t* __restrict to = quad + row;
    for (int x = 0; x < columns; ++x) to[kQuad * x] = from[x];
  }
}

void split(const uint8_t* quad, int columns, int count, uint8_t* rows) {
  for (int row = 0; row < count; ++row)
    for (int x = 0; x < columns; ++x) *rows++ = quad[kQuad * x + row];
}

}  // namespace

const Kernels& plain_kernels() {
  static const Kernels kernels{write_weights, pack, prepare, horizontal, vertical, weave, split};
  return kernels;
}

}  // namespace fastimae
