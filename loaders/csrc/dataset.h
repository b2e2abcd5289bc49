// The samples of a memory-mapped `.beton` file, and what is known about each.
#pragma once

#include <atomic>
#include <cstdint>
#include <mutex>
#include <vector>

#include "image.h"

namespace fastimae {

// Columns of N values each, owned by the caller and checked by loaders/beton/table.py: all samples
// and trailers are inside the file. Positions and sizes are in bytes.
struct Columns {
  const uint8_t* file;
  int64_t count;
  const int64_t *positions, *sizes, *heights, *widths;
  const uint8_t* is_jpeg;
  const int64_t *trailer_positions, *trailer_sizes;  // 0 if there is no trailer
  int raw_channels, raw_value_bytes;  // of samples that are not JPEG
};

struct Sample {
  const uint8_t* data;
  size_t size;
  int height, width;
  bool is_jpeg;
  int channels, value_bytes;  // if it is not a JPEG
};

// How far a sample's bytes can be trusted before any of them are decoded.
enum class Evidence {
  kDamaged,   // they are not the bytes that were written
  kUnproven,  // they may be; they have not all been decoded
  kSound,     // they are, and the writer has decoded all of them
};

// Provides samples, remembers which are good, and knows where MCU rows start: from the trailers in
// the file, or else from earlier decoding. Thread-safe.
//
// Memory: a byte per sample; without trailers in the file, 12 more bytes per MCU row decoded.
class Dataset {
 public:
  explicit Dataset(const Columns& columns);

  int64_t count() const { return columns_.count; }
  Sample sample(int64_t index) const;

  // From checksum and trailer. In a file with trailers, each sample must have an intact one.
  Evidence evidence(int64_t index) const;
  // Whether `mark_good` was called for the sample.
  bool is_good(int64_t index) const;
  void mark_good(int64_t index);

  // Copies the known row starts of a sample to `starts`.
  void load_rows(int64_t index, std::vector<RowStart>* starts);
  // Keeps row starts if they are more than were known.
  void keep_rows(int64_t index, const std::vector<RowStart>& starts);

 private:
  // The block after a sample in the file, see loaders/beton/trailer.py.
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
  std::vector<std::vector<RowStart>> row_starts_;  // empty if the file has trailers
};

}  // namespace fastimae
