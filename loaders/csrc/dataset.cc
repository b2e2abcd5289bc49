#include "dataset.h"

#include <cstring>

#include "crc32.h"

namespace fastimae {
namespace {

constexpr uint32_t kMagic = 'F' | 'M' << 8 | 'T' << 16 | '1' << 24;
constexpr int64_t kCrcAt = 4, kCountAt = 12, kRowsAt = 16, kCrcBytes = 4;

uint32_t read_uint32(const uint8_t* bytes) {
  uint32_t value;
  std::memcpy(&value, bytes, sizeof value);
  return value;
}

}  // namespace

Dataset::Dataset(const Columns& columns) : columns_(columns), checked_(columns.count) {
  bool has_trailers = false;
  for (int64_t i = 0; i < columns.count; ++i) has_trailers |= columns.trailer_positions[i] > 0;
  if (!has_trailers) found_.resize(columns.count);
}

Sample Dataset::sample(int64_t index) const {
  return Sample{columns_.file + columns_.positions[index],
                static_cast<size_t>(columns_.sizes[index]),
                static_cast<int>(columns_.heights[index]),
                static_cast<int>(columns_.widths[index]), columns_.is_jpeg[index] != 0};
}

bool Dataset::is_whole(int64_t index) {
  if (checked_[index].load(std::memory_order_relaxed)) return true;
  const Trailer trailer = this->trailer(index);
  if (trailer.state == Trailer::kDamaged) return false;
  const Sample sample = this->sample(index);
  if (trailer.state == Trailer::kWhole && crc32(sample.data, sample.size) != trailer.crc)
    return false;
  checked_[index].store(1, std::memory_order_relaxed);
  return true;
}

void Dataset::load_rows(int64_t index, std::vector<RowStart>* starts) {
  starts->clear();
  const Trailer trailer = this->trailer(index);
  if (trailer.state == Trailer::kWhole) {
    for (size_t row = 0; row < trailer.row_count; ++row) {
      RowStart start;
      std::memcpy(&start, trailer.rows + row * sizeof start, sizeof start);
      starts->push_back(start);
    }
  } else if (!found_.empty()) {
    std::lock_guard<std::mutex> hold(lock_of(index));
    *starts = found_[index];
  }
}

void Dataset::keep_rows(int64_t index, const std::vector<RowStart>& starts) {
  if (found_.empty()) return;
  std::lock_guard<std::mutex> hold(lock_of(index));
  if (starts.size() > found_[index].size()) found_[index].assign(starts.begin(), starts.end());
}

Dataset::Trailer Dataset::trailer(int64_t index) const {
  Trailer trailer;
  const int64_t size = columns_.trailer_sizes[index];
  const uint8_t* bytes = columns_.file + columns_.trailer_positions[index];
  if (size < kRowsAt + kCrcBytes || read_uint32(bytes) != kMagic) return trailer;
  trailer.state = Trailer::kDamaged;
  const int64_t count = read_uint32(bytes + kCountAt);
  const int64_t end = kRowsAt + count * static_cast<int64_t>(sizeof(RowStart));
  if (size != end + kCrcBytes || crc32(bytes, end) != read_uint32(bytes + end)) return trailer;
  trailer.state = Trailer::kWhole;
  trailer.crc = read_uint32(bytes + kCrcAt);
  trailer.rows = bytes + kRowsAt;
  trailer.row_count = static_cast<size_t>(count);
  return trailer;
}

}  // namespace fastimae
