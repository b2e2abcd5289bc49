#include "resize_tables.h"

#include <algorithm>

namespace fastimae {
namespace {

int groups_of(int taps) { return (taps + kGroup - 1) / kGroup; }

}  // namespace

void Table::lay_out_vertical(int out, Taps* taps) {
  clear(out, groups_of(kGroup - 1 + taps->most));
  for (int y = 0; y < taps->size(); ++y)
    place(taps, y, taps->first[y] / kGroup * kGroup, std::min(y, out - 1));
}

void Table::lay_out_horizontal(int in, int out, bool flip, Taps* taps) {
  clear(out, groups_of(taps->most));
  const int last_start = std::max(0, in - groups * kGroup);
  for (int x = 0; x < taps->size(); ++x) {
    const int to = std::min(x, out - 1);
    place(taps, x, std::min(taps->first[x], last_start), flip ? out - 1 - to : to);
  }
}

void Table::clear(int out, int groups_each) {
  groups = groups_each;
  start.resize(out);
  count.resize(out);
  weights.assign(static_cast<size_t>(out) * groups * kGroup, 0);
}

// Assigns the taps of position `x` to output position `to`, whose groups begin at `first_start`.
void Table::place(Taps* taps, int x, int first_start, int to) {
  const int skipped = taps->first[x] - first_start;
  start[to] = first_start;
  count[to] = groups_of(skipped + taps->count[x]);
  taps->weights[x] = &weights[static_cast<size_t>(to) * groups * kGroup + skipped];
}

}  // namespace fastimae
