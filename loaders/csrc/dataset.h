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

// Gives samples out, checks each one's bytes once, and knows where its MCU rows start: from its
// trailer in the file, or else from what earlier decoding found. For any number of threads.
//
// Memory: a byte a sample; where the file has no trailers, 12 bytes more for each MCU row seen.
class Dataset {
 public:
  explicit Dataset(const Columns& columns);

  int64_t count() const { return columns_.count; }
  Sample sample(int64_t index) const;

  // Whether the bytes are those that were written, as far as the file tells. Looks at them the
  // first time only.
  bool is_whole(int64_t index);

  // Copies what is known of the rows of a sample to `starts`.
  void load_rows(int64_t index, std::vector<RowStart>* starts);
  // Keeps rows that were found, if they are more than was known.
  void keep_rows(int64_t index, const std::vector<RowStart>& starts);

 private:
  // What follows a sample in the file, see loaders/trailer.py.
  struct Trailer {
    enum { kNone, kDamaged, kWhole } state = kNone;
    uint32_t crc = 0;  // of the sample
    const uint8_t* rows = nullptr;
    size_t row_count = 0;
  };
  Trailer trailer(int64_t index) const;
  std::mutex& lock_of(int64_t index) { return locks_[index % kLocks]; }

  static constexpr int kLocks = 64;
  const Columns columns_;
  std::vector<std::atomic<uint8_t>> checked_;
  std::mutex locks_[kLocks];
  std::vector<std::vector<RowStart>> found_;  // empty if the file has trailers
};

}  // namespace fastimae
