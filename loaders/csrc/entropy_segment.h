// Entropy-coded bytes of a JPEG file, without the zero bytes stuffed in after each FF.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

namespace fastimae {

// The decoders check for the end of a segment once per block, and read zeros beyond it.
constexpr size_t kZerosBehind = 512;

class Segment {
 public:
  // Copies file[begin, end), or up to the first marker.
  void read(const uint8_t* file, size_t begin, size_t end);

  const uint8_t* bytes() const { return bytes_.data(); }
  uint64_t bit_count() const { return 8 * static_cast<uint64_t>(size_); }

  // Where the bytes ended in the file: at a marker, or at `end`.
  size_t file_end() const { return file_end_; }
  // Whether the byte at `offset` in the file has been read, or would have been the next.
  bool holds(size_t offset) const;

  // From a bit in the file, counted like RowStart::bit, to a bit of bytes(), and back.
  uint64_t from_file(uint32_t bit) const;
  uint32_t to_file(uint64_t bit) const;

  // Forgets the file.
  void clear();

 private:
  std::vector<uint8_t> bytes_;     // never shrinks, because growing clears memory, which takes time
  std::vector<uint32_t> removed_;  // for each byte removed, the index of the byte after it
  size_t size_ = 0, file_begin_ = 1, file_end_ = 0;
};

}  // namespace fastimae
