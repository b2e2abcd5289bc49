// The samples of a `.beton` file mapped into memory.
#pragma once

#include <atomic>
#include <cstdint>
#include <mutex>
#include <vector>

#include "image.h"

namespace fastimae {

// Columns of N values each that somebody else owns, checked by loaders/beton_table.py: all samples
// and trailers lie inside the file. Positions and sizes are in bytes.
struct Columns {
  const uint8_t* file;
  int64_t count;
  const int64_t *positions, *sizes, *heights, *widths;
  const uint8_t* is_jpeg;
  const int64_t *trailer_positions, *trailer_sizes;  // 0 where there is no trailer
};

struct Sample {
  const uint8_t* data;
  size_t size;
  int height, width;
  bool is_jpeg;
};

// How far a sample's bytes can be trusted before anything of them is decoded.
enum class Evidence {
  kDamaged,   // they are not those that were written
  kUnproven,  // maybe those that were written; nobody has decoded all of them
  kSound,     // those that were written, and the writer has decoded all of them
};

// Gives samples out, remembers which were found good, and knows where MCU rows start: from the
// trailers in the file, or else from what earlier decoding found. For any number of threads.
//
// Memory: a byte a sample; where the file has no trailers, 12 bytes more for each MCU row seen.
class Dataset {
 public:
  explicit Dataset(const Columns& columns);

  int64_t count() const { return columns_.count; }
  Sample sample(int64_t index) const;

  // By checksum and trailer. In a file that has trailers each sample must have a sound one.
  Evidence evidence(int64_t index) const;
  // Whether `keep_good` was called for the sample.
  bool is_good(int64_t index) const;
  void keep_good(int64_t index);

  // Copies what is known of the rows of a sample to `starts`.
  void load_rows(int64_t index, std::vector<RowStart>* starts);
  // Keeps rows that were found, if they are more than was known.
  void keep_rows(int64_t index, const std::vector<RowStart>& starts);

 private:
  // What follows a sample in the file, see loaders/trailer.py.
  struct Trailer {
    uint32_t crc;  // of the sample
    bool vouches;  // the writer has decoded all of the sample
    const uint8_t* rows;
    size_t row_count;
  };
  // False if it is missing or damaged.
  bool read_trailer(int64_t index, Trailer* trailer) const;
  std::mutex& lock_of(int64_t index) { return locks_[index % kLocks]; }

  static constexpr int kLocks = 64;
  const Columns columns_;
  bool has_trailers_ = false;
  std::vector<std::atomic<uint8_t>> good_;
  std::mutex locks_[kLocks];
  std::vector<std::vector<RowStart>> found_;  // empty if the file has trailers
};

}  // namespace fastimae
