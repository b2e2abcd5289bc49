// Lookup tables for the Huffman codes of a JPEG file.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include <cstdio>  // jpeglib.h needs it
#include <jpeglib.h>

namespace fastimae {

// Codes of up to this many bits take one lookup. The two pairs that a colour image uses then fill
// 16 KiB of the first-level cache, and 1 symbol in 250 of photographs is longer.
constexpr int kLookBits = 10;

// The meaning of a code: the bits of the code and of the coefficient after it, and the distance of
// the coefficient from the previous one. All bits 0: the code is longer than kLookBits, or bad.
struct Symbol {
  uint32_t packed;

  static Symbol make(int code_length, int size, int step) {
    return {static_cast<uint32_t>(code_length + size) | static_cast<uint32_t>(code_length) << 8 |
            static_cast<uint32_t>(63 - size) << 16 | static_cast<uint32_t>(step) << 24};
  }
  int length() const { return packed & 0xff; }  // of code and coefficient
  int code_length() const { return packed >> 8 & 0xff; }
  int shift() const { return packed >> 16 & 0xff; }  // 63 - size of the coefficient
  int step() const { return packed >> 24; }         // kEndOfBlock: only zeros follow
};

constexpr int kEndOfBlock = 64;

// The codes that are too long for the lookup, ordered by bit length.
class LongCodes {
 public:
  void build(const JHUFF_TBL& source, bool is_dc);
  // The symbol of the most significant bits of `word`, Symbol{0} if none.
  Symbol find(uint64_t word) const;

 private:
  bool is_dc_;
  uint8_t values_[256];
  uint32_t limits_[17];  // first 16-bit word above all codes of that length
  int32_t offsets_[17];  // index of a code in values_ minus the code
};

// The tables for a component's DC and AC coefficients, side by side, so that the decoder switches
// from one to the other by adding to the index.
struct TablePair {
  Symbol symbols[2 << kLookBits];  // DC, then AC
  LongCodes long_codes[2];
};

// Whether libjpeg would accept the table: it checks only those that its own decoder uses.
bool is_sound(const JHUFF_TBL* table, bool is_dc);

// A cache of the last few pairs. Nearly every file has either the data set's usual tables or unique
// ones.
class TableCache {
 public:
  TableCache();
  // Valid until kSlots - 1 other pairs have been asked for.
  const TablePair* get(const JHUFF_TBL& dc, const JHUFF_TBL& ac);

  static constexpr int kSlots = 8;  // > 4, the most that one file uses

 private:
  struct Slot {
    JHUFF_TBL dc, ac;
    TablePair pair;
    uint64_t last_use = 0;
  };
  std::vector<Slot> slots_;
  uint64_t uses_ = 0;
};

}  // namespace fastimae
