// Lookup tables of the Huffman codes of a JPEG file.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include <cstdio>  // jpeglib.h needs it
#include <jpeglib.h>

namespace fastimae {

// Codes of up to so many bits are found in one lookup. The two pairs that a colour image uses then
// fill 16 KiB of the first-level cache, and 1 symbol in 250 of photographs is longer.
constexpr int kLookBits = 10;

// What a code means: how many bits the code and the coefficient behind it take, and how far the
// coefficient is from the one before it. All bits 0: the code is longer than kLookBits, or bad.
struct Symbol {
  uint32_t packed;

  static Symbol make(int code_length, int size, int step) {
    return {static_cast<uint32_t>(code_length + size) | static_cast<uint32_t>(code_length) << 8 |
            static_cast<uint32_t>(63 - size) << 16 | static_cast<uint32_t>(step) << 24};
  }
  int length() const { return packed & 0xff; }  // of code and coefficient
  int code_length() const { return packed >> 8 & 0xff; }
  int shift() const { return packed >> 16 & 0xff; }  // 63 - size of the coefficient
  int step() const { return packed >> 24; }         // kEndOfBlock: nothing but zeros follows
};

constexpr int kEndOfBlock = 64;

// The codes that are too long for the lookup, one bit length after the other.
class LongCodes {
 public:
  void build(const JHUFF_TBL& source, bool is_dc);
  // The symbol that the most significant bits of `word` stand for, Symbol{0} if none.
  Symbol find(uint64_t word) const;

 private:
  bool is_dc_;
  uint8_t values_[256];
  uint32_t limits_[17];  // first 16-bit word above all codes of that length
  int32_t offsets_[17];  // index of a code in values_, less the code
};

// The tables of the DC and the AC coefficients of a component, side by side, so that the decoder
// goes from one to the other by adding to the index.
struct TablePair {
  Symbol symbols[2 << kLookBits];  // DC, then AC
  LongCodes long_codes[2];
};

// Whether libjpeg would accept the table: it has checked those it uses, but not for us.
bool is_sound(const JHUFF_TBL* table, bool is_dc);

// The last few pairs built. Nearly all files of a data set share their tables, or have their own.
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
