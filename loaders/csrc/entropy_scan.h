// Decoder for the MCU rows of a baseline scan, in any order once their starts are known.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "entropy_segment.h"
#include "huffman_rows.h"
#include "image.h"

namespace fastimae {

// The only scan of a file, and the part of it that is wanted.
struct Scan {
  const uint8_t* file;
  size_t size;
  int row_count, column_count;  // in MCUs
  int restart_interval;         // in MCUs, 0: none
  int block_count;              // of an MCU
  const TablePair* tables[10];  // of the blocks of an MCU
  uint8_t components[10];       // of the blocks of an MCU
  int last_row, last_column;    // the last ones wanted, in MCUs
  std::vector<RowStart>* starts;  // of the first rows, at least one; grows
};

// Keeps its buffers from scan to scan.
class ScanDecoder {
 public:
  void start(const Scan& scan);

  // The coefficients of a wanted row's blocks in the wanted columns, in natural order, not
  // dequantised. Valid until the next call. If the data are damaged, nullptr from then on: see
  // problem(). Throws std::bad_alloc.
  const int16_t* row(int row);

  const char* problem() const { return problem_; }

 private:
  void decode(int row);
  int known_rows(int row) const;
  bool decode_known(int row, int count);
  bool decode_next(int row, bool wanted);
  bool decode_piece(int mcus, RowJob* job);
  bool pass_restart_marker(int mcus_before, RowJob* job);
  bool open(const RowStart& start);
  RowJob job_at(int row) const;
  bool fail(const char* problem);

  Scan scan_;
  const char* problem_ = nullptr;
  Segment segment_;
  std::vector<const TablePair*> tables_;  // of the blocks of a row
  std::vector<uint8_t> components_;       // of the blocks of a row
  std::vector<int16_t> blocks_;           // of the rows [first_decoded_, end_decoded_)
  int first_decoded_ = 0, end_decoded_ = 0;
  std::vector<RowJob> jobs_;
};

}  // namespace fastimae
