// Entropy-coded bytes of a JPEG file, with the bytes that were stuffed in behind each FF taken out.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

namespace fastimae {

// The decoders look for the end of a segment once per block, and read zeros when past it.
constexpr size_t kZerosBehind = 512;

class Segment {
 public:
  // Reads file[begin, end), or up to the first marker, into memory of its own.
  void read(const uint8_t* file, size_t begin, size_t end);

  const uint8_t* bytes() const { return bytes_.data(); }
  uint64_t bit_count() const { return 8 * static_cast<uint64_t>(size_); }

  // Where in the file the bytes ended: at a marker, or at `end`.
  size_t file_end() const { return file_end_; }
  // Whether the byte at `offset` in the file has been read, or would have been the next.
  bool holds(size_t offset) const;

  // From a bit in the file, counted like RowStart::bit, to a bit of bytes(), and back.
  uint64_t from_file(uint32_t bit) const;
  uint32_t to_file(uint64_t bit) const;

  // Forgets the file.
  void clear();

 private:
  std::vector<uint8_t> bytes_;     // never shrinks: growing clears memory, which takes time
  std::vector<uint32_t> removed_;  // for each byte taken out, the index of the byte it preceded
  size_t size_ = 0, file_begin_ = 1, file_end_ = 0;
};

}  // namespace fastimae
