// The taps of Pillow's antialiased bicubic filter: input positions and weights of each output.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <vector>

namespace fastimae {

constexpr int kWeightBits = 22;  // a weight of 1.0 is 1 << kWeightBits

// Along one axis. All arrays except scratch have one element per output position; the last one is
// repeated up to a multiple of kAligned.
struct Taps {
  static constexpr int kAligned = 4;

  int most = 0;                   // most taps of any position
  double inverse_width = 1.0;     // of the filter, in input positions
  std::vector<double> center;     // in input positions
  std::vector<int> first, count;  // the first tap's input position; taps, 1..`most`
  std::vector<int32_t*> weights;  // where to write them: int32 [count]
  std::vector<double> unscaled;   // scratch
  std::vector<int32_t> scaled;    // scratch

  // Everything but `weights`, for `in` positions that become `out`. Throws std::bad_alloc.
  void find(int in, int out);

  int size() const { return static_cast<int>(center.size()); }
};

template <int kLanes>
struct Vector {
  typedef double Doubles __attribute__((vector_size(kLanes * sizeof(double))));
  typedef int32_t Ints __attribute__((vector_size(kLanes * sizeof(int32_t))));
};

// Writes the weights, kLanes positions at a time. The weights depend on the last bit of every
// operation, so the operations and their order are Pillow's.
//
// Inlined into functions that are compiled for vectors of kLanes doubles: compilers handle wider
// ones badly, and narrower ones waste time.
template <int kLanes>
__attribute__((always_inline)) inline void weigh_taps(Taps* taps) {
  using Doubles = typename Vector<kLanes>::Doubles;
  using Ints = typename Vector<kLanes>::Ints;
  static_assert(Taps::kAligned % kLanes == 0, "positions come in whole vectors");

  for (size_t x = 0; x < taps->center.size(); x += kLanes) {
    Doubles center;
    Ints first, count;
    std::memcpy(&center, &taps->center[x], sizeof center);
    std::memcpy(&first, &taps->first[x], sizeof first);
    std::memcpy(&count, &taps->count[x], sizeof count);

    Doubles position = __builtin_convertvector(first, Doubles), sum = {};
    const Doubles end = position + __builtin_convertvector(count, Doubles);
    double* unscaled = taps->unscaled.data();
    for (int tap = 0; tap < taps->most; ++tap, position += 1.0, unscaled += kLanes) {
      Doubles at = (position - center + 0.5) * taps->inverse_width;
      at = at < 0.0 ? -at : at;
      const Doubles near = (1.5 * at - 2.5) * at * at + 1.0;
      const Doubles far = (((at - 5.0) * at + 8.0) * at - 4.0) * -0.5;
      const Doubles weight = at < 1.0 ? near : (at < 2.0 ? far : Doubles{});
      const Doubles inside = position < end ? weight : Doubles{};
      sum += inside;
      std::memcpy(unscaled, &inside, sizeof inside);
    }

    unscaled = taps->unscaled.data();
    int32_t* scaled = taps->scaled.data();
    for (int tap = 0; tap < taps->most; ++tap, unscaled += kLanes, scaled += kLanes) {
      Doubles weight;
      std::memcpy(&weight, unscaled, sizeof weight);
      weight /= sum;
      const Doubles half = weight < 0.0 ? Doubles{} - 0.5 : Doubles{} + 0.5;
      const Doubles exact = weight * (1 << kWeightBits) + half;
      const Ints fixed = __builtin_convertvector(exact, Ints);
      std::memcpy(scaled, &fixed, sizeof fixed);
    }
    for (int i = 0; i < kLanes; ++i)
      for (int tap = 0; tap < count[i]; ++tap)
        taps->weights[x + i][tap] = taps->scaled[tap * kLanes + i];
  }
}

}  // namespace fastimae
