// The resize passes with AVX-512 VNNI and VBMI.
//
// A weight is split into three signed bytes, its digits; one instruction multiplies four of these
// by four pixels and adds. So a group of four taps is packed as the lowest digits of the four
// weights, the middle ones, the highest, and zeros.
#if defined(__x86_64__)

// GCC 12 warns about its own header.
#if defined(__GNUC__) && !defined(__clang__)
#pragma GCC diagnostic ignored "-Wuninitialized"
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#endif

#include <immintrin.h>

#include <algorithm>

#include "resize_kernels.h"
#include "resize_taps.h"

#define FASTIMAE_AVX512 \
  __attribute__((target("avx512f,avx512bw,avx512vl,avx512vbmi,avx512vnni")))

namespace fastimae {
namespace {

constexpr int kDigits = Blocks::kDigits;
constexpr int kDigitBits = 8;
constexpr int kLanes = 16;  // 32-bit numbers in a vector

// 16 sums, digit by digit.
struct Sums {
  __m512i digit[kDigits];
};

FASTIMAE_AVX512 inline __m512i load(const void* from) { return _mm512_loadu_si512(from); }

FASTIMAE_AVX512 inline Sums half() {
  return {_mm512_set1_epi32(1 << (kWeightBits - 1)), _mm512_setzero_si512(),
          _mm512_setzero_si512()};
}

FASTIMAE_AVX512 inline void add(__m512i taps, const Sums& weights, Sums* sums) {
  for (int i = 0; i < kDigits; ++i)
    sums->digit[i] = _mm512_dpbusd_epi32(sums->digit[i], taps, weights.digit[i]);
}

FASTIMAE_AVX512 inline __m512i rounded(const Sums& sums) {
  const __m512i high = _mm512_slli_epi32(sums.digit[2], kDigitBits);
  const __m512i upper = _mm512_slli_epi32(_mm512_add_epi32(high, sums.digit[1]), kDigitBits);
  return _mm512_srai_epi32(_mm512_add_epi32(upper, sums.digit[0]), kWeightBits);
}

// 32-bit sums to bytes, clamped to 0..255. In each quarter: four of a, four of b, c, d.
FASTIMAE_AVX512 inline __m512i to_bytes(const Sums sums[4]) {
  return _mm512_packus_epi16(_mm512_packs_epi32(rounded(sums[0]), rounded(sums[1])),
                             _mm512_packs_epi32(rounded(sums[2]), rounded(sums[3])));
}

// Transposes 4 x 4 bytes in each quarter.
FASTIMAE_AVX512 inline __m512i transpose_bytes(__m512i bytes) {
  return _mm512_shuffle_epi8(bytes, _mm512_broadcast_i32x4(_mm_setr_epi8(
                                        0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15)));
}

// Transposes 4 x 4 values of 32 bits.
FASTIMAE_AVX512 inline __m512i transpose_quarters(__m512i values) {
  return _mm512_permutexvar_epi32(
      _mm512_setr_epi32(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15), values);
}

FASTIMAE_AVX512 void pack(int32_t* weights, size_t count) {
  // Maps the unsigned digits to -128..127: adds 128 to each, then subtracts it again without carry.
  const __m512i offset = _mm512_set1_epi32(0x00808080);
  constexpr size_t kAtOnce = 4;
  for (size_t i = 0; i < count; i += kAtOnce, weights += kAtOnce * kGroup) {
    const size_t left = std::min(kAtOnce, count - i);
    const auto mask = static_cast<__mmask16>(0xFFFF >> kGroup * (kAtOnce - left));
    const __m512i values = _mm512_maskz_loadu_epi32(mask, weights);
    const __m512i digits = _mm512_xor_si512(_mm512_add_epi32(values, offset), offset);
    _mm512_mask_storeu_epi32(weights, mask, transpose_bytes(digits));
  }
}

void prepare(Horizontal* plan) {
  plan->blocks.fill(plan->table, plan->in_channels, plan->out_channels);
}

template <int kGroups>
FASTIMAE_AVX512 void horizontal_groups(const Horizontal& plan, const uint8_t* const rows[kQuad],
                                       uint8_t* quad) {
  const int groups = kGroups ? kGroups : plan.table.groups;
  const int step = kQuad * plan.in_channels;
  const Block* block = plan.blocks.data.data();
  for (const int start : plan.blocks.start) {
    const __m512i permutation = load(block++);
    Sums sums[kQuad] = {half(), half(), half(), half()};
    for (int group = 0; group < groups; ++group, block += kDigits) {
      const Sums weights{load(block), load(block + 1), load(block + 2)};
      for (int row = 0; row < kQuad; ++row) {
        const __m512i pixels = load(rows[row] + start + group * step);
        add(_mm512_permutexvar_epi8(permutation, pixels), weights, &sums[row]);
      }
    }
    _mm512_storeu_si512(quad, transpose_bytes(to_bytes(sums)));
    quad += plan.blocks.lanes * kQuad;
  }
}

void horizontal(const Horizontal& plan, const uint8_t* const rows[kQuad], uint8_t* quad) {
  switch (plan.table.groups) {
    case 1: return horizontal_groups<1>(plan, rows, quad);
    case 2: return horizontal_groups<2>(plan, rows, quad);
    case 3: return horizontal_groups<3>(plan, rows, quad);
    default: return horizontal_groups<0>(plan, rows, quad);
  }
}

// 64 columns from x on.
template <int kGroups>
FASTIMAE_AVX512 inline __m512i vertical_block(const uint8_t* const* quads, const int32_t* weights,
                                              int count, int x) {
  Sums sums[4] = {half(), half(), half(), half()};
  for (int group = 0; group < (kGroups ? kGroups : count); ++group) {
    const int32_t* part = weights + group * kGroup;
    const Sums digits{_mm512_set1_epi32(part[0]), _mm512_set1_epi32(part[1]),
                      _mm512_set1_epi32(part[2])};
    const uint8_t* taps = quads[group] + kQuad * x;
    for (int i = 0; i < 4; ++i) add(load(taps + i * sizeof(Block)), digits, &sums[i]);
  }
  return transpose_quarters(to_bytes(sums));
}

template <int kGroups>
FASTIMAE_AVX512 void vertical_groups(const uint8_t* const* quads, const int32_t* weights, int count,
                                     int columns, uint8_t* row) {
  constexpr int kAtOnce = sizeof(Block);
  int x = 0;
  for (; x + kAtOnce <= columns; x += kAtOnce)
    _mm512_storeu_si512(row + x, vertical_block<kGroups>(quads, weights, count, x));
  if (x < columns)
    _mm512_mask_storeu_epi8(row + x, ~uint64_t{0} >> (kAtOnce - (columns - x)),
                            vertical_block<kGroups>(quads, weights, count, x));
}

void vertical(const uint8_t* const* quads, const int32_t* weights, int count, int columns,
              uint8_t* row) {
  switch (count) {
    case 1: return vertical_groups<1>(quads, weights, count, columns, row);
    case 2: return vertical_groups<2>(quads, weights, count, columns, row);
    case 3: return vertical_groups<3>(quads, weights, count, columns, row);
    default: return vertical_groups<0>(quads, weights, count, columns, row);
  }
}

FASTIMAE_AVX512 inline __m128i load_quarter(const uint8_t* from) {
  return _mm_loadu_si128(reinterpret_cast<const __m128i*>(from));
}

FASTIMAE_AVX512 void weave(const uint8_t* const rows[kQuad], int columns, uint8_t* quad) {
  for (int x = 0; x < columns; x += kLanes) {
    __m512i bytes = _mm512_castsi128_si512(load_quarter(rows[0] + x));
    bytes = _mm512_inserti32x4(bytes, load_quarter(rows[1] + x), 1);
    bytes = _mm512_inserti32x4(bytes, load_quarter(rows[2] + x), 2);
    bytes = _mm512_inserti32x4(bytes, load_quarter(rows[3] + x), 3);
    _mm512_storeu_si512(quad + kQuad * x, transpose_bytes(transpose_quarters(bytes)));
  }
}

FASTIMAE_AVX512 void split(const uint8_t* quad, int columns, int count, uint8_t* rows) {
  for (int x = 0; x < columns; x += kLanes) {
    const __m512i bytes = transpose_quarters(transpose_bytes(load(quad + kQuad * x)));
    const __m128i row[kQuad] = {
        _mm512_castsi512_si128(bytes), _mm512_extracti32x4_epi32(bytes, 1),
        _mm512_extracti32x4_epi32(bytes, 2), _mm512_extracti32x4_epi32(bytes, 3)};
    const auto mask = static_cast<__mmask16>(0xFFFF >> std::max(0, x + kLanes - columns));
    for (int i = 0; i < kQuad && i < count; ++i)
      _mm_mask_storeu_epi8(rows + static_cast<ptrdiff_t>(i) * columns + x, mask, row[i]);
  }
}

}  // namespace

const Kernels& avx512_kernels() {
  // Weights use AVX2: with AVX-512, compilers fuse additions and multiplications and round once.
  static const Kernels kernels{
      avx2_kernels().write_weights, pack, prepare, horizontal, vertical, weave, split};
  return kernels;
}

}  // namespace fastimae

#endif  // defined(__x86_64__)
