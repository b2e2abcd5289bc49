#include "entropy_scan.h"

#include <algorithm>
#include <cstring>

namespace fastimae {
namespace {

// Rows are decoded ahead as long as their coefficients fit in the second-level cache.
constexpr size_t kAheadBytes = 384 << 10;

constexpr char kWrongIndex[] = "wrong index of rows";

}  // namespace

void ScanDecoder::start(const Scan& scan) {
  scan_ = scan;
  problem_ = nullptr;
  segment_.clear();
  first_decoded_ = end_decoded_ = 0;
  const size_t blocks = static_cast<size_t>(scan.column_count) * scan.block_count;
  tables_.resize(blocks);
  components_.resize(blocks);
  for (size_t i = 0; i < blocks; i++) {
    tables_[i] = scan.tables[i % scan.block_count];
    components_[i] = scan.components[i % scan.block_count];
  }
}

const int16_t* ScanDecoder::row(int row) {
  if (problem_) return nullptr;
  if (row < first_decoded_ || row >= end_decoded_) decode(row);
  if (problem_) return nullptr;
  const size_t blocks = static_cast<size_t>(scan_.last_column + 1) * scan_.block_count;
  return blocks_.data() + (row - first_decoded_) * blocks * kBlockSize;
}

void ScanDecoder::decode(int row) {
  while (static_cast<int>(scan_.starts->size()) <= row) {
    if (!decode_next(static_cast<int>(scan_.starts->size()) - 1, false)) return;
  }
  const size_t row_size =
      static_cast<size_t>(scan_.last_column + 1) * scan_.block_count * kBlockSize;
  const int ahead = std::max<size_t>(2, kAheadBytes / sizeof(int16_t) / row_size);
  const int count = std::max(1, std::min(known_rows(row), ahead));
  if (blocks_.size() < count * row_size) blocks_.resize(count * row_size);
  memset(blocks_.data(), 0, count * row_size * sizeof(int16_t));
  first_decoded_ = row;
  end_decoded_ = row + count;
  if (count > 1) {
    decode_known(row, count);
  } else {
    decode_next(row, true);
  }
}

// The number of wanted rows, from `row` on, that can be decoded in parallel.
int ScanDecoder::known_rows(int row) const {
  if (scan_.restart_interval) return 0;
  const int known = static_cast<int>(scan_.starts->size());
  // Only decode_next can find the end of the last known one.
  return std::min(known > scan_.last_row ? known : known - 1, scan_.last_row + 1) - row;
}

bool ScanDecoder::decode_known(int row, int count) {
  const std::vector<RowStart>& starts = *scan_.starts;
  const int blocks = (scan_.last_column + 1) * scan_.block_count;
  if (!open(starts[row])) return false;
  jobs_.clear();
  for (int i = 0; i < count; i++) {
    if (!segment_.holds(starts[row + i].bit / 8)) return fail(kWrongIndex);
    jobs_.push_back(job_at(row + i));
    jobs_.back().blocks = blocks_.data() + static_cast<size_t>(i) * blocks * kBlockSize;
  }
  decode_rows({blocks, tables_.data(), components_.data()}, jobs_.data(), count);
  const bool whole = scan_.last_column == scan_.column_count - 1;
  for (int i = 0; i < count; i++) {
    if (jobs_[i].problem) return fail(jobs_[i].problem);
    if (i + 1 == count) break;
    const uint64_t next = segment_.from_file(starts[row + i + 1].bit);
    if (whole ? jobs_[i].position != next : jobs_[i].position > next)
      return fail(kWrongIndex);
  }
  return true;
}

// Decodes a row of which only the start is known, and records where the next one starts.
bool ScanDecoder::decode_next(int row, bool wanted) {
  const bool to_the_end = row < scan_.last_row && row + 1 == static_cast<int>(scan_.starts->size());
  const int columns = to_the_end ? scan_.column_count : scan_.last_column + 1;
  if (!open((*scan_.starts)[row])) return false;
  RowJob job = job_at(row);
  const int first_mcu = row * scan_.column_count;
  for (int column = 0; column < columns;) {
    const int interval = scan_.restart_interval;
    const int until_restart =
        interval ? interval - (first_mcu + column) % interval : scan_.column_count;
    // There is no room for coefficients after the wanted columns.
    const bool store = wanted && column <= scan_.last_column;
    const int until_edge = (store ? scan_.last_column + 1 : columns) - column;
    const int count = std::min(until_restart, until_edge);
    job.blocks = store ? blocks_.data() +
                             static_cast<size_t>(column) * scan_.block_count * kBlockSize
                       : nullptr;
    if (!decode_piece(count, &job)) return false;
    column += count;
    if (count == until_restart && interval && !pass_restart_marker(first_mcu + column, &job))
      return false;
  }
  if (to_the_end) {
    RowStart next{segment_.to_file(job.position), {}};
    for (int i = 0; i < 4; i++) next.dc[i] = static_cast<int16_t>(job.dc[i]);
    scan_.starts->push_back(next);
  }
  return true;
}

bool ScanDecoder::decode_piece(int mcus, RowJob* job) {
  // All MCUs consist of the same blocks, so any of them can serve as the first.
  decode_rows({mcus * scan_.block_count, tables_.data(), components_.data()}, job, 1);
  return !job->problem || fail(job->problem);
}

bool ScanDecoder::pass_restart_marker(int mcus_before, RowJob* job) {
  if (mcus_before == scan_.row_count * scan_.column_count) return true;
  const int expected = 0xd0 + ((mcus_before / scan_.restart_interval - 1) & 7);
  size_t at = segment_.file_end();
  while (at < scan_.size && scan_.file[at] == 0xff) at++;
  if (job->position + 8 <= job->bit_count || at == scan_.size || scan_.file[at] != expected)
    return fail("restart marker missing");
  segment_.read(scan_.file, at + 1, scan_.size);
  *job = RowJob{segment_.bytes(), segment_.bit_count(), 0, {}, nullptr, nullptr};
  return true;
}

// Makes sure that segment_ contains the start of a row.
bool ScanDecoder::open(const RowStart& start) {
  const size_t offset = start.bit / 8;
  if (segment_.holds(offset)) return true;
  if (offset >= scan_.size) return fail(kWrongIndex);
  const size_t next = scan_.last_row + 1;
  size_t end = scan_.size;
  if (!scan_.restart_interval && next < scan_.starts->size()) {
    end = std::min(end, size_t{(*scan_.starts)[next].bit / 8} + 1);
    if (end <= offset) return fail(kWrongIndex);
    while (end < scan_.size && scan_.file[end - 1] == 0xff) end++;  // an FF needs what follows
  }
  segment_.read(scan_.file, offset, end);
  return true;
}

RowJob ScanDecoder::job_at(int row) const {
  const RowStart& start = (*scan_.starts)[row];
  RowJob job{segment_.bytes(), segment_.bit_count(), segment_.from_file(start.bit), {}, nullptr,
             nullptr};
  for (int i = 0; i < 4; i++) job.dc[i] = static_cast<uint16_t>(start.dc[i]);
  return job;
}

bool ScanDecoder::fail(const char* problem) {
  problem_ = problem;
  return false;
}

}  // namespace fastimae
