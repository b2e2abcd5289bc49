#include "jpeg_tables.h"

#include <algorithm>
#include <iterator>

namespace fastimae {
namespace {

// libjpeg writes 0 here with each table that it reads, and never reads it.
constexpr UINT8 kLeftOver = 1;
// No encoder writes a table of only these values; if one does, Pillow decodes the file.
constexpr UINT16 kNoStep = 0xffff;

bool is_own(JHUFF_TBL* const* tables, int slot) {
  return slot >= 0 && slot < NUM_HUFF_TBLS && tables[slot] && tables[slot]->bits[0] != kLeftOver;
}

bool is_own(const JQUANT_TBL* table) {
  const auto is_left_over = [](UINT16 step) { return step == kNoStep; };
  return table && !std::all_of(table->quantval, std::end(table->quantval), is_left_over);
}

void forget(jpeg_decompress_struct* info, JHUFF_TBL** table) {
  if (!*table) *table = jpeg_alloc_huff_table(reinterpret_cast<j_common_ptr>(info));
  // Without codes, as libjpeg refuses an invalid table before we can check where it came from.
  std::fill(std::begin((*table)->bits), std::end((*table)->bits), UINT8{0});
  (*table)->bits[0] = kLeftOver;
}

}  // namespace

void forget_tables(jpeg_decompress_struct* info) {
  for (JHUFF_TBL*& table : info->dc_huff_tbl_ptrs) forget(info, &table);
  for (JHUFF_TBL*& table : info->ac_huff_tbl_ptrs) forget(info, &table);
  for (JQUANT_TBL*& table : info->quant_tbl_ptrs) {
    if (!table) table = jpeg_alloc_quant_table(reinterpret_cast<j_common_ptr>(info));
    std::fill(std::begin(table->quantval), std::end(table->quantval), kNoStep);
  }
}

bool has_own_huffman_tables(const jpeg_decompress_struct& info) {
  if (info.arith_code) return true;  // arithmetic coding uses none
  // A progressive scan has DC or AC coefficients, and refines DC without a code.
  const bool uses_dc = info.progressive_mode ? info.Ss == 0 && info.Ah == 0 : true;
  const bool uses_ac = info.progressive_mode ? info.Ss > 0 : true;
  for (int i = 0; i < info.comps_in_scan; i++) {
    const jpeg_component_info& component = *info.cur_comp_info[i];
    if (uses_dc && !is_own(info.dc_huff_tbl_ptrs, component.dc_tbl_no)) return false;
    if (uses_ac && !is_own(info.ac_huff_tbl_ptrs, component.ac_tbl_no)) return false;
  }
  return true;
}

bool has_own_quantisation_tables(const jpeg_decompress_struct& info) {
  return std::all_of(info.comp_info, info.comp_info + info.num_components,
                     [](const jpeg_component_info& of) { return is_own(of.quant_table); });
}

bool has_all_scans(const jpeg_decompress_struct& info) {
  if (!info.progressive_mode) return true;
  const int* first = info.coef_bits[0];
  return std::all_of(first, first + info.num_components * DCTSIZE2,
                     [](int missing_bits) { return missing_bits == 0; });
}

}  // namespace fastimae
