#include "entropy_segment.h"

#include <algorithm>
#include <cstring>

namespace fastimae {

void Segment::read(const uint8_t* file, size_t begin, size_t end) {
  const size_t needed = end - begin + kZerosBehind;
  if (bytes_.size() < needed) bytes_.resize(needed + needed / 2);
  removed_.clear();
  file_begin_ = begin;

  const uint8_t* in = file + begin;
  const uint8_t* const stop = file + end;
  uint8_t* out = bytes_.data();
  while (in < stop) {
    const void* found = memchr(in, 0xff, stop - in);
    const uint8_t* const ff = found ? static_cast<const uint8_t*>(found) : stop;
    memcpy(out, in, ff - in);
    out += ff - in;
    in = ff;
    const uint8_t* next = ff;
    while (next < stop && *next == 0xff) next++;  // libjpeg reads FF FF 00 as FF 00
    if (next == stop || *next != 0) break;
    const uint32_t index = static_cast<uint32_t>(out - bytes_.data());
    removed_.insert(removed_.end(), next - ff - 1, index);
    removed_.push_back(index + 1);
    *out++ = 0xff;
    in = next + 1;
  }
  size_ = out - bytes_.data();
  file_end_ = in - file;
  memset(out, 0, kZerosBehind);
}

bool Segment::holds(size_t offset) const { return file_begin_ <= offset && offset <= file_end_; }

uint64_t Segment::from_file(uint32_t bit) const {
  // removed_[i] was at file_begin_ + removed_[i] + i.
  const size_t offset = bit / 8 - file_begin_;
  size_t low = 0, high = removed_.size();
  while (low < high) {
    const size_t middle = (low + high) / 2;
    if (removed_[middle] + middle < offset) {
      low = middle + 1;
    } else {
      high = middle;
    }
  }
  return 8 * static_cast<uint64_t>(offset - low) + bit % 8;
}

uint32_t Segment::to_file(uint64_t bit) const {
  const uint64_t index = bit / 8;
  const auto before = std::upper_bound(removed_.begin(), removed_.end(), index);
  const uint64_t offset = file_begin_ + index + (before - removed_.begin());
  return static_cast<uint32_t>(8 * offset + bit % 8);
}

void Segment::clear() {
  file_begin_ = 1;
  file_end_ = 0;
}

}  // namespace fastimae
