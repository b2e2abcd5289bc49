#include "huffman_rows.h"

#include "bit_reader.h"

namespace fastimae {
namespace {

// Everything in run() must be inlined into one function, with the state of all lanes in registers.
#define ALWAYS_INLINE inline __attribute__((always_inline))
#define UNLIKELY(condition) __builtin_expect(condition, 0)
#ifdef __clang__
#define UNROLL _Pragma("clang loop unroll(full)")
#else
#define UNROLL _Pragma("GCC unroll 2")
#endif

struct NaturalOrder {
  uint8_t at[64 + kEndOfBlock];
};

constexpr NaturalOrder natural_order() {
  NaturalOrder order = {};
  int k = 0;
  for (int diagonal = 0; diagonal < 15; diagonal++) {
    for (int i = 0; i <= diagonal; i++) {
      const int row = diagonal % 2 ? i : diagonal - i, column = diagonal - row;
      if (row < 8 && column < 8) order.at[k++] = 8 * row + column;
    }
  }
  // Bad data lead past the end of the block. Like libjpeg, write that to the last position.
  while (k < 64 + kEndOfBlock) order.at[k++] = 63;
  return order;
}

constexpr NaturalOrder kNaturalOrder = natural_order();

// A row being decoded. Two are interleaved: while one waits for a lookup, the other continues.
// (Three are no faster: there are not enough registers.)
struct Lane {
  BitReader reader;
  const uint8_t* end;
  int16_t* block;
  const TablePair* table;
  uint32_t k;  // the last coefficient decoded, in zigzag order
  int index;   // of the block
  uint16_t dc[4];
  RowJob* job;
};

// A bad code ends the block, and jumps past the end of the data, which ends the row.
__attribute__((noinline, cold)) Symbol long_code(const LongCodes& codes, uint64_t word,
                                                 RowJob* job) {
  const Symbol symbol = codes.find(word);
  if (symbol.packed != 0) return symbol;
  job->problem = "bad Huffman code";
  return Symbol::make(0, 0, kEndOfBlock);
}

template <int kTable>
ALWAYS_INLINE Symbol next_symbol(Lane& lane) {
  const uint64_t word = lane.reader.word();
  Symbol symbol = lane.table->symbols[(kTable << kLookBits) + (word >> (64 - kLookBits))];
  if (UNLIKELY(symbol.packed == 0)) {
    lane.reader.refill();  // it may be too long for another symbol from the same bits
    symbol = long_code(lane.table->long_codes[kTable], word, lane.job);
  }
  return symbol;
}

// Decodes the DC coefficient of the next block.
template <bool kStore>
ALWAYS_INLINE void start_block(const RowLayout& layout, Lane& lane) {
  lane.table = layout.tables[lane.index];
  lane.reader.refill();
  const Symbol symbol = next_symbol<0>(lane);
  uint16_t& dc = lane.dc[layout.components[lane.index]];
  dc += lane.reader.value(symbol);
  if (kStore) lane.block[0] = static_cast<int16_t>(dc);
  lane.reader.drop(symbol.length());
  lane.reader.refill();
  lane.k = 0;
}

template <bool kStore>
ALWAYS_INLINE void start_row(const RowLayout& layout, Lane& lane, RowJob* job) {
  lane.reader = BitReader(job->bytes, job->position);
  lane.end = job->bytes + job->bit_count / 8;
  lane.block = job->blocks;
  lane.index = 0;
  for (int i = 0; i < 4; i++) lane.dc[i] = job->dc[i];
  lane.job = job;
  job->problem = nullptr;
  start_block<kStore>(layout, lane);
}

// Decodes an AC coefficient, and returns whether there may be another one in the block.
template <bool kStore>
ALWAYS_INLINE bool next_coefficient(Lane& lane) {
  const Symbol symbol = next_symbol<1>(lane);
  lane.k += symbol.step();
  // At the end of the block this overwrites a zero with a zero, which is cheaper than a branch.
  if (kStore) lane.block[kNaturalOrder.at[lane.k]] = lane.reader.value(symbol);
  lane.reader.drop(symbol.length());
  return lane.k < 63;
}

ALWAYS_INLINE void finish_row(const Lane& lane) {
  RowJob* job = lane.job;
  job->position = lane.reader.position(job->bytes);
  for (int i = 0; i < 4; i++) job->dc[i] = lane.dc[i];
  if (!job->problem && job->position > job->bit_count) job->problem = "premature end of data";
}

// Returns false at the end of the row.
template <bool kStore>
ALWAYS_INLINE bool next_block(const RowLayout& layout, Lane& lane) {
  lane.index++;
  if (kStore) lane.block += kBlockSize;
  const bool past_end = lane.reader.next() > lane.end + 8;
  if (UNLIKELY(lane.index == layout.block_count || past_end || lane.job->problem)) return false;
  start_block<kStore>(layout, lane);
  return true;
}

// Decodes in `count` lanes until there is no row left for one of them, and removes that lane.
template <int count, bool kStore>
ALWAYS_INLINE void run(const RowLayout& layout, Lane* lanes, RowJob*& next, RowJob* last) {
  Lane lane[count];
  UNROLL
  for (int i = 0; i < count; i++) lane[i] = lanes[i];
  int over = 0;
  for (;;) {
    UNROLL
    for (int i = 0; i < count; i++) lane[i].reader.refill();
    // These are enough bits for two symbols; long codes refill themselves.
    UNROLL
    for (int symbol = 0; symbol < 2; symbol++) {
      UNROLL
      for (int i = 0; i < count; i++) {
        if (next_coefficient<kStore>(lane[i]) || next_block<kStore>(layout, lane[i])) continue;
        finish_row(lane[i]);
        if (next == last) {
          over = i;
          goto out;
        }
        start_row<kStore>(layout, lane[i], next++);
      }
    }
  }
out:
  UNROLL
  for (int i = 0; i < count; i++) {
    if (i != over) *lanes++ = lane[i];
  }
}

template <bool kStore>
ALWAYS_INLINE void decode(const RowLayout& layout, RowJob* jobs, int count) {
  Lane lanes[2];
  RowJob* next = jobs;
  RowJob* const last = jobs + count;
  if (count >= 2) {
    for (Lane& lane : lanes) start_row<kStore>(layout, lane, next++);
    run<2, kStore>(layout, lanes, next, last);
  } else {
    start_row<kStore>(layout, lanes[0], next++);
  }
  run<1, kStore>(layout, lanes, next, last);
}

#ifdef __x86_64__
// Uses BMI2's shifts by any register.
__attribute__((target("bmi,bmi2"))) void decode_bmi2(const RowLayout& layout, RowJob* jobs,
                                                     int count) {
  jobs->blocks ? decode<true>(layout, jobs, count) : decode<false>(layout, jobs, count);
}
#endif

void decode_plain(const RowLayout& layout, RowJob* jobs, int count) {
  jobs->blocks ? decode<true>(layout, jobs, count) : decode<false>(layout, jobs, count);
}

}  // namespace

void decode_rows(const RowLayout& layout, RowJob* jobs, int count) {
#ifdef __x86_64__
  static const bool has_bmi2 = __builtin_cpu_supports("bmi2") && __builtin_cpu_supports("bmi");
  if (has_bmi2) return decode_bmi2(layout, jobs, count);
#endif
  decode_plain(layout, jobs, count);
}

}  // namespace fastimae
