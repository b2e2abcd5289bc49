#include "resize_taps.h"

#include <algorithm>

namespace fastimae {

void Taps::find(int in, int out) {
  const double scale = static_cast<double>(in) / out;
  const double width = std::max(scale, 1.0);
  const double support = 2.0 * width;
  const int padded = (out + kAligned - 1) / kAligned * kAligned;
  inverse_width = 1.0 / width;
  center.resize(padded);
  first.resize(padded);
  count.resize(padded);
  weights.resize(padded);
  most = 0;
  for (int x = 0; x < padded; ++x) {
    const double middle = (std::min(x, out - 1) + 0.5) * scale;
    center[x] = middle;
    first[x] = std::max(0, static_cast<int>(middle - support + 0.5));
    count[x] = std::min(in, static_cast<int>(middle + support + 0.5)) - first[x];
    most = std::max(most, count[x]);
  }
  unscaled.resize(static_cast<size_t>(most) * kAligned);
  scaled.resize(static_cast<size_t>(most) * kAligned);
}

}  // namespace fastimae
