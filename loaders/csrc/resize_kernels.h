// The interface of the resize kernels: two passes, implemented once per instruction set.
//
// The passes exchange "quads": four rows of bytes, interleaved byte by byte. A quad lets the
// vertical pass load four taps at once, and costs the horizontal pass nothing: it computes four
// rows at once anyway.
#pragma once

#include <cstddef>
#include <cstdint>

#include "image.h"
#include "resize_blocks.h"
#include "resize_tables.h"

namespace fastimae {

constexpr int kQuad = kGroup;  // rows

// Bytes to reserve for a row; four times as many for a quad. Kernels write full vectors into quads,
// the last of which begins at a column < `columns`.
constexpr size_t padded(size_t columns) {
  return (columns + 2 * sizeof(Block) - 1) / sizeof(Block) * sizeof(Block);
}

// The horizontal pass: `in_channels` bytes per position become `out_channels`, as many or 1 -> 3.
struct Horizontal {
  Table table;
  int in_channels = 0, out_channels = 0;
  Blocks blocks;  // the same in another form, for kernels that use it
};

// The kernels of one instruction set.
struct Kernels {
  void (*write_weights)(Taps* taps);

  // Packs the weights of `count` groups for `horizontal` and `vertical`.
  void (*pack)(int32_t* weights, size_t count);

  // Completes a plan after its table was packed.
  void (*prepare)(Horizontal* plan);

  // Four rows to a quad. May read kPadding bytes past the rows' ends; writes the quad's padding.
  void (*horizontal)(const Horizontal& plan, const uint8_t* const rows[kQuad], uint8_t* quad);

  // `count` quads, weighted, to a row of `columns` bytes; writes no more.
  void (*vertical)(const uint8_t* const* quads, const int32_t* weights, int count, int columns,
                   uint8_t* row);

  // Four rows of `columns` bytes to a quad. Reads and writes like `horizontal`.
  void (*weave)(const uint8_t* const rows[kQuad], int columns, uint8_t* quad);

  // The first `count` rows of a quad, one after the other; writes no more.
  void (*split)(const uint8_t* quad, int columns, int count, uint8_t* rows);
};

const Kernels& plain_kernels();
#if defined(__x86_64__)
const Kernels& avx2_kernels();
const Kernels& avx512_kernels();
#endif

}  // namespace fastimae
