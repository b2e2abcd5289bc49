// The resize passes with AVX2.
//
// A weight is split into two words, its low 15 bits and the rest; one instruction multiplies two
// words by two pixels and adds. So a group of four taps is packed as the pairs (0, 2) and (1, 3) of
// low parts, then of high parts.
#if defined(__x86_64__)

#include <immintrin.h>

#include <algorithm>
#include <cstring>

#include "resize_kernels.h"
#include "resize_taps.h"

#define FASTIMAE_AVX2 __attribute__((target("avx2")))

namespace fastimae {
namespace {

constexpr int kLowBits = 15;

// Sums of eight (pixel, channel)s, or the parts of a group, repeated for each of them.
struct Parts {
  __m256i low_even, low_odd, high_even, high_odd;
};

struct Sums {
  __m256i low, high;
};

FASTIMAE_AVX2 void write_weights(Taps* taps) { weigh_taps<4>(taps); }

void pack(int32_t* weights, size_t count) {
  const auto pair = [](int first, int second) { return (first & 0xFFFF) + second * 0x10000; };
  const auto low = [](int weight) { return weight & ((1 << kLowBits) - 1); };
  const auto high = [](int weight) { return weight >> kLowBits; };
  for (; count > 0; --count, weights += kGroup) {
    const int a = weights[0], b = weights[1], c = weights[2], d = weights[3];
    weights[0] = pair(low(a), low(c));
    weights[1] = pair(low(b), low(d));
    weights[2] = pair(high(a), high(c));
    weights[3] = pair(high(b), high(d));
  }
}

void prepare(Horizontal*) {}

// `packed` has a group in each half.
FASTIMAE_AVX2 inline Parts spread(__m256i packed) {
  return {_mm256_shuffle_epi32(packed, 0x00), _mm256_shuffle_epi32(packed, 0x55),
          _mm256_shuffle_epi32(packed, 0xAA), _mm256_shuffle_epi32(packed, 0xFF)};
}

FASTIMAE_AVX2 inline Sums zero() { return {_mm256_setzero_si256(), _mm256_setzero_si256()}; }

// Adds taps 0 and 2 (`even`), 1 and 3 (`odd`), which are words.
FASTIMAE_AVX2 inline void add(__m256i even, __m256i odd, const Parts& parts, Sums* sums) {
  const __m256i low = _mm256_add_epi32(_mm256_madd_epi16(even, parts.low_even),
                                       _mm256_madd_epi16(odd, parts.low_odd));
  const __m256i high = _mm256_add_epi32(_mm256_madd_epi16(even, parts.high_even),
                                        _mm256_madd_epi16(odd, parts.high_odd));
  sums->low = _mm256_add_epi32(sums->low, low);
  sums->high = _mm256_add_epi32(sums->high, high);
}

// Adds the four bytes of every 32 bits.
FASTIMAE_AVX2 inline void add_quads(__m256i taps, const Parts& parts, Sums* sums) {
  const __m256i even = _mm256_and_si256(taps, _mm256_set1_epi32(0x00FF00FF));
  add(even, _mm256_srli_epi16(taps, 8), parts, sums);
}

FASTIMAE_AVX2 inline __m256i rounded(const Sums& sums) {
  const __m256i half = _mm256_set1_epi32(1 << (kWeightBits - 1));
  const __m256i high = _mm256_slli_epi32(sums.high, kLowBits);
  const __m256i sum = _mm256_add_epi32(_mm256_add_epi32(sums.low, high), half);
  return _mm256_srai_epi32(sum, kWeightBits);
}

// 32-bit sums to bytes, clamped to 0..255. In each half: four of a, four of b, c, d.
FASTIMAE_AVX2 inline __m256i to_bytes(const Sums& a, const Sums& b, const Sums& c, const Sums& d) {
  return _mm256_packus_epi16(_mm256_packs_epi32(rounded(a), rounded(b)),
                             _mm256_packs_epi32(rounded(c), rounded(d)));
}

// Transposes 4 x 4 bytes in each half.
FASTIMAE_AVX2 inline __m256i interleave(__m256i bytes) {
  return _mm256_shuffle_epi8(bytes, _mm256_broadcastsi128_si256(_mm_setr_epi8(
                                        0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15)));
}

FASTIMAE_AVX2 inline __m256i load_halves(const void* low, const void* high) {
  const __m256i first = _mm256_castsi128_si256(_mm_loadu_si128(static_cast<const __m128i*>(low)));
  return _mm256_inserti128_si256(first, _mm_loadu_si128(static_cast<const __m128i*>(high)), 1);
}

FASTIMAE_AVX2 inline void store_half(__m128i value, uint8_t* to) {
  _mm_storeu_si128(reinterpret_cast<__m128i*>(to), value);
}

// Two output pixels, one in each half; the fourth channel is unused.
FASTIMAE_AVX2 void horizontal_rgb(const Table& table, const uint8_t* const rows[kQuad],
                                  uint8_t* quad) {
  const __m256i to_even = _mm256_broadcastsi128_si256(
      _mm_setr_epi8(0, -1, 6, -1, 1, -1, 7, -1, 2, -1, 8, -1, -1, -1, -1, -1));
  const __m256i to_odd = _mm256_broadcastsi128_si256(
      _mm_setr_epi8(3, -1, 9, -1, 4, -1, 10, -1, 5, -1, 11, -1, -1, -1, -1, -1));
  const int width = static_cast<int>(table.start.size());
  for (int x = 0; x < width; x += 2) {
    const int other = std::min(x + 1, width - 1);
    const int32_t* weights[] = {table.weights_of(x), table.weights_of(other)};
    ptrdiff_t at[] = {ptrdiff_t{3} * table.start[x], ptrdiff_t{3} * table.start[other]};
    Sums sums[kQuad] = {zero(), zero(), zero(), zero()};
    for (int group = 0; group < table.groups; ++group) {
      const int skipped = group * kGroup;
      const Parts parts = spread(load_halves(weights[0] + skipped, weights[1] + skipped));
      for (int row = 0; row < kQuad; ++row) {
        const __m256i taps = load_halves(rows[row] + at[0], rows[row] + at[1]);
        add(_mm256_shuffle_epi8(taps, to_even), _mm256_shuffle_epi8(taps, to_odd), parts,
            &sums[row]);
      }
      at[0] += 3 * kQuad;
      at[1] += 3 * kQuad;
    }
    const __m256i pixels = interleave(to_bytes(sums[0], sums[1], sums[2], sums[3]));
    store_half(_mm256_castsi256_si128(pixels), quad);
    store_half(_mm256_extracti128_si256(pixels, 1), quad + 3 * kQuad);
    quad += 2 * 3 * kQuad;
  }
}

// One output pixel of four rows, twice.
FASTIMAE_AVX2 void horizontal_gray(const Table& table, int out_channels,
                                   const uint8_t* const rows[kQuad], uint8_t* quad) {
  const int32_t* weights = table.weights.data();
  for (const int start : table.start) {
    Sums sums = zero();
    for (int group = 0; group < table.groups; ++group, weights += kGroup) {
      int32_t taps[kQuad];
      for (int row = 0; row < kQuad; ++row)
        std::memcpy(&taps[row], rows[row] + start + group * kQuad, sizeof taps[row]);
      add_quads(_mm256_broadcastsi128_si256(_mm_setr_epi32(taps[0], taps[1], taps[2], taps[3])),
                spread(load_halves(weights, weights)), &sums);
    }
    const __m256i pixel = to_bytes(sums, sums, sums, sums);
    for (int c = 0; c < out_channels; ++c, quad += kQuad) {
      const int32_t bytes = _mm256_cvtsi256_si32(pixel);
      std::memcpy(quad, &bytes, sizeof bytes);
    }
  }
}

void horizontal(const Horizontal& plan, const uint8_t* const rows[kQuad], uint8_t* quad) {
  if (plan.in_channels == 3)
    horizontal_rgb(plan.table, rows, quad);
  else
    horizontal_gray(plan.table, plan.out_channels, rows, quad);
}

// 32 columns from x on.
FASTIMAE_AVX2 inline __m256i vertical_block(const uint8_t* const* quads, const int32_t* weights,
                                            int count, int x) {
  Sums sums[4] = {zero(), zero(), zero(), zero()};
  for (int group = 0; group < count; ++group) {
    const Parts parts = spread(load_halves(weights + group * kGroup, weights + group * kGroup));
    const auto* taps = reinterpret_cast<const __m256i*>(quads[group] + kQuad * x);
    for (int i = 0; i < 4; ++i) add_quads(_mm256_loadu_si256(taps + i), parts, &sums[i]);
  }
  const __m256i bytes = to_bytes(sums[0], sums[1], sums[2], sums[3]);
  return _mm256_permutevar8x32_epi32(bytes, _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7));
}

FASTIMAE_AVX2 void vertical(const uint8_t* const* quads, const int32_t* weights, int count,
                            int columns, uint8_t* row) {
  constexpr int kAtOnce = sizeof(__m256i);
  int x = 0;
  for (; x + kAtOnce <= columns; x += kAtOnce)
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(row + x),
                        vertical_block(quads, weights, count, x));
  if (x < columns) {
    const __m256i last = vertical_block(quads, weights, count, x);
    std::memcpy(row + x, &last, columns - x);
  }
}

FASTIMAE_AVX2 void weave(const uint8_t* const rows[kQuad], int columns, uint8_t* quad) {
  for (int x = 0; x < columns; x += sizeof(__m128i)) {
    __m128i row[kQuad];
    for (int i = 0; i < kQuad; ++i)
      row[i] = _mm_loadu_si128(reinterpret_cast<const __m128i*>(rows[i] + x));
    const __m128i low01 = _mm_unpacklo_epi8(row[0], row[1]);
    const __m128i low23 = _mm_unpacklo_epi8(row[2], row[3]);
    const __m128i high01 = _mm_unpackhi_epi8(row[0], row[1]);
    const __m128i high23 = _mm_unpackhi_epi8(row[2], row[3]);
    store_half(_mm_unpacklo_epi16(low01, low23), quad + kQuad * x);
    store_half(_mm_unpackhi_epi16(low01, low23), quad + kQuad * x + 16);
    store_half(_mm_unpacklo_epi16(high01, high23), quad + kQuad * x + 32);
    store_half(_mm_unpackhi_epi16(high01, high23), quad + kQuad * x + 48);
  }
}

FASTIMAE_AVX2 void split(const uint8_t* quad, int columns, int count, uint8_t* rows) {
  constexpr int kAtOnce = sizeof(__m128i);
  for (int x = 0; x < columns; x += kAtOnce, quad += kQuad * kAtOnce) {
    // Transpose 4 x 4 columns of four rows, then again with these as units.
    const __m256i a = interleave(load_halves(quad, quad + 32));
    const __m256i b = interleave(load_halves(quad + 16, quad + 48));
    const __m256i rows01 = _mm256_permute4x64_epi64(_mm256_unpacklo_epi32(a, b), 0xD8);
    const __m256i rows23 = _mm256_permute4x64_epi64(_mm256_unpackhi_epi32(a, b), 0xD8);
    const __m128i row[] = {
        _mm256_castsi256_si128(rows01), _mm256_extracti128_si256(rows01, 1),
        _mm256_castsi256_si128(rows23), _mm256_extracti128_si256(rows23, 1)};
    for (int i = 0; i < kQuad && i < count; ++i) {
      uint8_t* to = rows + static_cast<ptrdiff_t>(i) * columns + x;
      if (x + kAtOnce <= columns)
        store_half(row[i], to);
      else
        std::memcpy(to, &row[i], columns - x);
    }
  }
}

}  // namespace

const Kernels& avx2_kernels() {
  static const Kernels kernels{write_weights, pack, prepare, horizontal, vertical, weave, split};
  return kernels;
}

}  // namespace fastimae

#endif  // defined(__x86_64__)
