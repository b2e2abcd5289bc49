#include "huffman_tables.h"

#include <algorithm>
#include <cstring>

namespace fastimae {
namespace {

Symbol symbol_of(int value, int code_length, bool is_dc) {
  if (is_dc) return Symbol::make(code_length, value & 15, 1);
  const int run = value >> 4, size = value & 15;
  // 15 zeros and a zero is the only run without a coefficient that does not end the block.
  const bool ends = size == 0 && run != 15;
  return Symbol::make(code_length, size, ends ? kEndOfBlock : run + 1);
}

void build_lookup(const JHUFF_TBL& source, bool is_dc, Symbol* symbols) {
  std::fill(symbols, symbols + (1 << kLookBits), Symbol{0});
  const uint8_t* value = source.huffval;
  Symbol* to = symbols;
  for (int length = 1; length <= kLookBits; length++) {
    for (int i = 0; i < source.bits[length]; i++) {
      const int copies = 1 << (kLookBits - length);
      std::fill(to, to + copies, symbol_of(*value++, length, is_dc));
      to += copies;
    }
  }
}

}  // namespace

bool is_sound(const JHUFF_TBL* table, bool is_dc) {
  if (table == nullptr) return false;
  int count = 0, code = 0;
  for (int length = 1; length <= 16; length++) {
    count += table->bits[length];
    code = 2 * code + table->bits[length];
    if (count > 256 || code > 1 << length) return false;
  }
  return !is_dc || std::all_of(table->huffval, table->huffval + count,
                               [](uint8_t value) { return value <= 15; });
}

void LongCodes::build(const JHUFF_TBL& source, bool is_dc) {
  is_dc_ = is_dc;
  memcpy(values_, source.huffval, sizeof values_);
  int code = 0, index = 0;
  for (int length = 1; length <= 16; length++) {
    offsets_[length] = index - code;
    code += source.bits[length];
    index += source.bits[length];
    limits_[length] = static_cast<uint32_t>(code) << (16 - length);
    code *= 2;
  }
}

Symbol LongCodes::find(uint64_t word) const {
  const uint32_t bits = static_cast<uint32_t>(word >> 48);
  for (int length = kLookBits + 1; length <= 16; length++) {
    if (bits >= limits_[length]) continue;
    const int index = static_cast<int>(bits >> (16 - length)) + offsets_[length];
    return symbol_of(values_[index & 255], length, is_dc_);
  }
  return {0};
}

TableCache::TableCache() : slots_(kSlots) {}

const TablePair* TableCache::get(const JHUFF_TBL& dc, const JHUFF_TBL& ac) {
  const auto same = [](const JHUFF_TBL& a, const JHUFF_TBL& b) {
    return !memcmp(a.bits, b.bits, sizeof a.bits) &&
           !memcmp(a.huffval, b.huffval, sizeof a.huffval);
  };
  uses_++;
  for (Slot& slot : slots_) {
    if (slot.last_use == 0 || !same(slot.dc, dc) || !same(slot.ac, ac)) continue;
    slot.last_use = uses_;
    return &slot.pair;
  }
  Slot& slot = *std::min_element(slots_.begin(), slots_.end(), [](const Slot& a, const Slot& b) {
    return a.last_use < b.last_use;
  });
  slot.last_use = uses_;
  slot.dc = dc;
  slot.ac = ac;
  build_lookup(dc, true, slot.pair.symbols);
  build_lookup(ac, false, slot.pair.symbols + (1 << kLookBits));
  slot.pair.long_codes[0].build(dc, true);
  slot.pair.long_codes[1].build(ac, false);
  return &slot.pair;
}

}  // namespace fastimae
