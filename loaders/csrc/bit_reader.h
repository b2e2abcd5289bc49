// Bit reader for entropy-coded data, most significant bit first.
#pragma once

#include <cstdint>
#include <cstring>

#include "huffman_tables.h"

namespace fastimae {

inline uint64_t load_big_endian(const uint8_t* bytes) {
  uint64_t word;
  memcpy(&word, bytes, sizeof word);
#if __BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__
  word = __builtin_bswap64(word);
#endif
  return word;
}

// Reads up to 8 bytes past what has been consumed.
class BitReader {
 public:
  BitReader() = default;
  BitReader(const uint8_t* bytes, uint64_t position) : next_(bytes + position / 8) {
    refill();
    drop(position % 8);
  }

  // Makes at least 56 bits available.
  void refill() {
    word_ |= load_big_endian(next_) >> count_;
    next_ += (63 - count_) >> 3;
    count_ |= 56;
  }
  // The next bits, the first one on top; bits beyond the available ones are undefined.
  uint64_t word() const { return word_; }
  // The coefficient after the code of `symbol`, which is next: if it starts with 0, it is negative,
  // in one's complement (T.81, figure F.12).
  int16_t value(Symbol symbol) const {
    const uint64_t bits = word_ << symbol.code_length();
    const uint64_t negative = ~static_cast<uint64_t>(static_cast<int64_t>(bits) >> 63);
    const uint64_t magnitude = (bits ^ negative) >> 1 >> symbol.shift();
    return static_cast<int16_t>((magnitude ^ negative) - negative);
  }
  void drop(int count) {
    word_ <<= count;
    count_ -= count;
  }
  const uint8_t* next() const { return next_; }
  uint64_t position(const uint8_t* bytes) const {
    return 8 * static_cast<uint64_t>(next_ - bytes) - count_;
  }

 private:
  const uint8_t* next_;
  uint64_t word_ = 0;
  int count_ = 0;
};

}  // namespace fastimae
