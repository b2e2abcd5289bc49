#include "resize.h"

#include <algorithm>

#include "resize_kernels.h"
#include "resize_tables.h"
#include "resize_taps.h"

namespace fastimae {
namespace {

const Kernels& kernels_of(Simd simd) {
#if defined(__x86_64__)
  if (simd == Simd::kAvx512Vnni) return avx512_kernels();
  if (simd == Simd::kAvx2) return avx2_kernels();
#endif
  (void)simd;
  return plain_kernels();
}

// The rows of an image in quad `number`; the last row is repeated beyond the end.
struct Rows {
  Rows(const View& in, int number) {
    for (int i = 0; i < kQuad; ++i)
      rows[i] = in.pixels + std::min(number * kQuad + i, in.height - 1) * in.stride;
  }

  const uint8_t* rows[kQuad];
};

uint8_t* bytes_of(std::vector<Block>* blocks) {
  return reinterpret_cast<uint8_t*>(blocks->data());
}

}  // namespace

bool is_vertical_first(const View& in, int height, int width) {
  const int rows = in.height - height;
  return rows > 0 && rows > 2 * (in.width - width);
}

Simd best_simd() {
#if defined(__x86_64__)
  if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
      __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512vbmi") &&
      __builtin_cpu_supports("avx512vnni"))
    return Simd::kAvx512Vnni;
  if (__builtin_cpu_supports("avx2")) return Simd::kAvx2;
#endif
  return Simd::kPlain;
}

struct Resizer::Impl {
  explicit Impl(Simd simd) : kernels(kernels_of(simd)) {}

  void make_tables(const View& in, int height, int width, int channels, bool flip);
  void fill(Table* table);
  void resize_horizontal_first(const View& in, uint8_t* out, int height, int width);
  void resize_vertical_first(const View& in, uint8_t* out, int height, int width);

  // Makes room for the quads, `columns` wide, that an output row may need.
  void start_quads(int columns);

  // Makes an output row from `window`, its quads. make(number, quad) writes the missing quads over
  // those that no row needs any more.
  template <class Make>
  void make_row(int y, int columns, uint8_t* row, const Make& make);

  const Kernels& kernels;
  Taps taps;
  Horizontal horizontal;
  Table vertical;

  std::vector<Block> ring;  // the last [vertical.groups] quads
  int quads_made = 0;
  std::vector<const uint8_t*> window;
  std::vector<Block> between;  // four rows and a quad
};

void Resizer::Impl::make_tables(const View& in, int height, int width, int channels, bool flip) {
  taps.find(in.width, width);
  horizontal.table.lay_out_horizontal(in.width, width, flip, &taps);
  fill(&horizontal.table);
  horizontal.in_channels = in.channels;
  horizontal.out_channels = channels;
  kernels.prepare(&horizontal);

  taps.find(in.height, height);
  vertical.lay_out_vertical(height, &taps);
  fill(&vertical);
}

void Resizer::Impl::fill(Table* table) {
  kernels.write_weights(&taps);
  kernels.pack(table->weights.data(), table->weights.size() / kGroup);
}

void Resizer::Impl::start_quads(int columns) {
  ring.resize(vertical.groups * kQuad * padded(columns) / sizeof(Block));
  window.resize(vertical.groups);
  quads_made = 0;
}

template <class Make>
void Resizer::Impl::make_row(int y, int columns, uint8_t* row, const Make& make) {
  const int first = vertical.start[y] / kQuad;
  const int count = vertical.count[y];
  const auto quad = [&](int number) {
    return bytes_of(&ring) + number % vertical.groups * kQuad * padded(columns);
  };
  for (; quads_made < first + count; ++quads_made) make(quads_made, quad(quads_made));
  for (int i = 0; i < count; ++i) window[i] = quad(first + i);
  kernels.vertical(window.data(), vertical.weights_of(y), count, columns, row);
}

void Resizer::Impl::resize_horizontal_first(const View& in, uint8_t* out, int height, int width) {
  const int columns = width * horizontal.out_channels;
  start_quads(columns);
  for (int y = 0; y < height; ++y, out += columns)
    make_row(y, columns, out, [&](int number, uint8_t* quad) {
      kernels.horizontal(horizontal, Rows(in, number).rows, quad);
    });
}

void Resizer::Impl::resize_vertical_first(const View& in, uint8_t* out, int height, int width) {
  const int in_columns = in.width * in.channels;
  const int out_columns = width * horizontal.out_channels;
  start_quads(in_columns);
  const size_t stride = padded(in_columns) + kPadding;
  between.resize((kQuad * stride + kQuad * padded(out_columns)) / sizeof(Block));
  uint8_t* const rows = bytes_of(&between);
  const Rows tall{View{rows, kQuad, in.width, in.channels, static_cast<ptrdiff_t>(stride)}, 0};
  uint8_t* const quad = rows + kQuad * stride;

  for (int y = 0; y < height; ++y) {
    make_row(y, in_columns, rows + y % kQuad * stride, [&](int number, uint8_t* woven) {
      kernels.weave(Rows(in, number).rows, in_columns, woven);
    });
    const int ready = y % kQuad + 1;
    if (ready < kQuad && y + 1 < height) continue;
    kernels.horizontal(horizontal, tall.rows, quad);
    kernels.split(quad, out_columns, ready, out);
    out += static_cast<ptrdiff_t>(ready) * out_columns;
  }
}

Resizer::Resizer(Simd simd) : impl_(std::make_unique<Impl>(simd)) {}

Resizer::~Resizer() = default;

void Resizer::resize(const View& in, uint8_t* out, int height, int width, int channels, bool flip) {
  impl_->make_tables(in, height, width, channels, flip);
  if (is_vertical_first(in, height, width))
    impl_->resize_vertical_first(in, out, height, width);
  else
    impl_->resize_horizontal_first(in, out, height, width);
}

}  // namespace fastimae
