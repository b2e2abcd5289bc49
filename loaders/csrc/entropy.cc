#include "entropy.h"

#include <algorithm>
#include <chrono>
#include <cstring>
#include <new>

#include "entropy_scan.h"

namespace fastimae {
namespace {

constexpr size_t kMaxSize = size_t{1} << 29;  // RowStart counts bits in 32 bits
constexpr int kStateScanning = 205;           // DSTATE_SCANNING of jpegint.h

// To libjpeg this is one of its own entropy decoders: jpeg_entropy_decoder of jpegint.h, which is
// not installed everywhere. The first two members have always been these; `rest` stands for others
// whose order differs between libjpeg-turbo 2 and 3, all of which mean "no problem" if zero.
struct Replacement {
  void (*start_pass)(j_decompress_ptr);
  boolean (*decode_mcu)(j_decompress_ptr, JBLOCKROW*);
  void* rest[8];
  EntropyDecoder* decoder;
};

void start_no_pass(j_decompress_ptr) {}

bool is_readable(const jpeg_decompress_struct& info) {
  const bool single_scan = info.comps_in_scan == info.num_components && info.num_components <= 4 &&
                           !info.buffered_image && info.Ss == 0 && info.Se == 63 && info.Ah == 0 &&
                           info.Al == 0;
  if (!single_scan || info.progressive_mode || info.arith_code || info.data_precision != 8)
    return false;
  for (int i = 0; i < info.comps_in_scan; i++) {
    const jpeg_component_info& component = *info.cur_comp_info[i];
    const int dc = component.dc_tbl_no, ac = component.ac_tbl_no;
    if (dc < 0 || dc >= NUM_HUFF_TBLS || !is_sound(info.dc_huff_tbl_ptrs[dc], true)) return false;
    if (ac < 0 || ac >= NUM_HUFF_TBLS || !is_sound(info.ac_huff_tbl_ptrs[ac], false)) return false;
  }
  return true;
}

}  // namespace

struct EntropyDecoder::Impl {
  Replacement replacement{};
  TableCache tables;
  Scan scan{};
  ScanDecoder decoder;
  int first_row = 0;
  int row = 0, column = 0;  // the next that libjpeg will ask for
  const int16_t* blocks = nullptr;  // of that row
  const char* problem = nullptr;
  uint64_t nanoseconds = 0;

  void begin_row();
  void next_mcu(JBLOCKROW* to);
  static boolean decode_mcu(j_decompress_ptr info, JBLOCKROW* blocks);
};

EntropyDecoder::EntropyDecoder() : impl_(new Impl) {}

EntropyDecoder::~EntropyDecoder() { delete impl_; }

const char* EntropyDecoder::problem() const { return impl_->problem; }

uint64_t EntropyDecoder::nanoseconds() const { return impl_->nanoseconds; }

bool EntropyDecoder::attach(jpeg_decompress_struct* info, const uint8_t* data, size_t size,
                            int first_row, int last_row, int last_column,
                            std::vector<RowStart>* starts) {
  const uint8_t* const next = info->src->next_input_byte;
  if (size >= kMaxSize || next < data || next + info->src->bytes_in_buffer != data + size ||
      info->unread_marker != 0 || info->global_state != kStateScanning ||
      info->output_scanline != 0 || !is_readable(*info))
    return false;

  Scan& scan = impl_->scan;
  scan.file = data;
  scan.size = size;
  scan.row_count = info->MCU_rows_in_scan;
  scan.column_count = info->MCUs_per_row;
  scan.restart_interval = info->restart_interval;
  scan.block_count = info->blocks_in_MCU;
  for (int i = 0; i < info->blocks_in_MCU; i++) {
    const int component = info->MCU_membership[i];
    const jpeg_component_info& of = *info->cur_comp_info[component];
    scan.components[i] = component;
    scan.tables[i] = impl_->tables.get(*info->dc_huff_tbl_ptrs[of.dc_tbl_no],
                                       *info->ac_huff_tbl_ptrs[of.ac_tbl_no]);
  }
  // In a scan of one component an MCU is one block, whatever the sampling factors.
  const bool single = info->comps_in_scan == 1;
  const int rows = single ? info->max_v_samp_factor : 1;
  const int columns = single ? info->max_h_samp_factor : 1;
  impl_->first_row = first_row * rows;
  scan.last_row = std::min((last_row + 1) * rows, scan.row_count) - 1;
  scan.last_column = std::min((last_column + 1) * columns, scan.column_count) - 1;

  const RowStart first{static_cast<uint32_t>(8 * (next - data)), {}};
  if (starts->empty() || memcmp(&starts->front(), &first, sizeof first) != 0)
    starts->assign(1, first);  // they were another file's
  scan.starts = starts;
  impl_->decoder.start(scan);
  impl_->row = impl_->column = 0;
  impl_->problem = nullptr;
  impl_->nanoseconds = 0;

  impl_->replacement = {start_no_pass, Impl::decode_mcu, {}, this};
  info->entropy = reinterpret_cast<jpeg_entropy_decoder*>(&impl_->replacement);
  return true;
}

boolean EntropyDecoder::Impl::decode_mcu(j_decompress_ptr info, JBLOCKROW* blocks) {
  reinterpret_cast<Replacement*>(info->entropy)->decoder->impl_->next_mcu(blocks);
  return TRUE;
}

// libjpeg asks for the MCUs in the order of the file, without gaps; `to` is nullptr for those that
// jpeg_skip_scanlines skips, else it points to zeros.
void EntropyDecoder::Impl::next_mcu(JBLOCKROW* to) {
  const bool wanted = to && first_row <= row && row <= scan.last_row && column <= scan.last_column;
  if (wanted) {
    if (column == 0) begin_row();
    if (blocks) {
      const int16_t* from = blocks + column * scan.block_count * kBlockSize;
      for (int i = 0; i < scan.block_count; i++) {
        memcpy(to[i], from + i * kBlockSize, sizeof(JBLOCK));
      }
    }
  }
  if (++column == scan.column_count) {
    column = 0;
    row++;
  }
}

void EntropyDecoder::Impl::begin_row() {
  using Clock = std::chrono::steady_clock;
  blocks = nullptr;
  if (problem) return;
  const Clock::time_point start = Clock::now();
  try {  // exceptions must not pass through libjpeg
    blocks = decoder.row(row);
    problem = decoder.problem();
  } catch (const std::bad_alloc&) {
    problem = "out of memory";
  }
  nanoseconds += std::chrono::nanoseconds(Clock::now() - start).count();
}

}  // namespace fastimae
