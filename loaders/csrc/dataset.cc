#include "dataset.h"

#include <cstring>

#include "crc32.h"

namespace fastimae {
namespace {

constexpr uint32_t kMagic = 'F' | 'M' << 8 | 'T' << 16 | '2' << 24;
constexpr uint32_t kOlderMagic = 'F' | 'M' << 8 | 'T' << 16 | '1' << 24;
constexpr int64_t kCrcAt = 4, kComponentsAt = 8, kCountAt = 12, kRowsAt = 16, kCrcBytes = 4;

uint32_t read_uint32(const uint8_t* bytes) {
  uint32_t value;
  std::memcpy(&value, bytes, sizeof value);
  return value;
}

}  // namespace

Dataset::Dataset(const Columns& columns) : columns_(columns), good_(columns.count) {
  for (int64_t i = 0; i < columns.count; ++i) has_trailers_ |= columns.trailer_sizes[i] > 0;
  if (!has_trailers_) row_starts_.resize(columns.count);
}

Sample Dataset::sample(int64_t index) const {
  return Sample{columns_.file + columns_.positions[index],
                static_cast<size_t>(columns_.sizes[index]),
                static_cast<int>(columns_.heights[index]),
                static_cast<int>(columns_.widths[index]),
                columns_.is_jpeg[index] != 0,
                columns_.raw_channels,
                columns_.raw_value_bytes};
}

Evidence Dataset::evidence(int64_t index) const {
  if (!has_trailers_) return Evidence::kUnproven;
  Trailer trailer;
  const Sample sample = this->sample(index);
  if (!read_trailer(index, &trailer) || crc32(sample.data, sample.size) != trailer.crc)
    return Evidence::kDamaged;
  return trailer.vouches ? Evidence::kSound : Evidence::kUnproven;
}

bool Dataset::is_good(int64_t index) const {
  return good_[index].load(std::memory_order_relaxed) != 0;
}

void Dataset::mark_good(int64_t index) { good_[index].store(1, std::memory_order_relaxed); }

void Dataset::load_rows(int64_t index, std::vector<RowStart>* starts) {
  starts->clear();
  Trailer trailer;
  if (!has_trailers_) {
    std::lock_guard<std::mutex> hold(lock_of(index));
    *starts = row_starts_[index];
  } else if (read_trailer(index, &trailer)) {
    starts->resize(trailer.row_count);
    if (trailer.row_count > 0)
      std::memcpy(starts->data(), trailer.rows, trailer.row_count * sizeof(RowStart));
  }
}

void Dataset::keep_rows(int64_t index, const std::vector<RowStart>& starts) {
  if (row_starts_.empty()) return;
  std::lock_guard<std::mutex> hold(lock_of(index));
  std::vector<RowStart>& known = row_starts_[index];
  if (starts.size() > known.size()) known.assign(starts.begin(), starts.end());
}

bool Dataset::read_trailer(int64_t index, Trailer* trailer) const {
  const int64_t size = columns_.trailer_sizes[index];
  const uint8_t* bytes = columns_.file + columns_.trailer_positions[index];
  if (size < kRowsAt + kCrcBytes) return false;
  const uint32_t magic = read_uint32(bytes);
  if (magic != kMagic && magic != kOlderMagic) return false;
  const int64_t count = read_uint32(bytes + kCountAt);
  const int64_t end = kRowsAt + count * static_cast<int64_t>(sizeof(RowStart));
  if (size != end + kCrcBytes || crc32(bytes, end) != read_uint32(bytes + end)) return false;
  trailer->crc = read_uint32(bytes + kCrcAt);
  trailer->vouches = read_uint32(bytes + kComponentsAt) > 0;
  trailer->rows = bytes + kRowsAt;
  trailer->row_count = static_cast<size_t>(count);
  return true;
}

}  // namespace fastimae
