#include "jpeg_errors.h"

#include <algorithm>

extern "C" {
#include <jerror.h>
}

namespace fastimae {
namespace {

[[noreturn]] void on_error(j_common_ptr info) {
  auto* errors = reinterpret_cast<JpegErrors*>(info->err);
  if (!errors->damaged) errors->base.format_message(info, errors->message);
  errors->damaged = true;
  std::longjmp(errors->back, 1);
}

// Whether the bytes that libjpeg skipped to find a marker are data that it should have decoded: the
// bits of a damaged scan rarely end where they should. Padding has a single value.
bool skips_data(j_common_ptr info) {
  const auto* errors = reinterpret_cast<JpegErrors*>(info->err);
  const auto* decompress = reinterpret_cast<j_decompress_ptr>(info);
  const ptrdiff_t count = info->err->msg_parm.i[0];
  const JOCTET* end = decompress->src->next_input_byte;
  if (decompress->input_scan_number == 0) return false;
  if (end > errors->end || end - count < errors->begin) return true;
  return std::any_of(end - count, end, [=](JOCTET byte) { return byte != end[-1]; });
}

// Whether a warning means that pixels are lost. Other warnings are about odd headers and padding.
bool is_damage(j_common_ptr info) {
  switch (info->err->msg_code) {
    case JWRN_EXTRANEOUS_DATA:
      return skips_data(info);
    case JWRN_ARITH_BAD_CODE:
    case JWRN_BOGUS_PROGRESSION:
    case JWRN_HIT_MARKER:
    case JWRN_HUFF_BAD_CODE:
    case JWRN_JPEG_EOF:
    case JWRN_MUST_RESYNC:
      return true;
    default:
      return false;
  }
}

// Before the first scan: stray bytes, or markers without a segment, where a segment should begin.
bool is_untidy(j_common_ptr info) {
  const int code = info->err->msg_code;
  return reinterpret_cast<j_decompress_ptr>(info)->input_scan_number == 0 &&
         (code == JWRN_EXTRANEOUS_DATA || code == JTRC_PARMLESS_MARKER);
}

void on_message(j_common_ptr info, int level) {
  auto* errors = reinterpret_cast<JpegErrors*>(info->err);
  if (is_untidy(info)) errors->untidy = true;
  if (level >= 0 || errors->damaged || !is_damage(info)) return;
  errors->base.format_message(info, errors->message);
  errors->damaged = true;
}

}  // namespace

jpeg_error_mgr* JpegErrors::manager() {
  jpeg_std_error(&base);
  base.error_exit = on_error;
  base.emit_message = on_message;
  return &base;
}

void JpegErrors::start(const uint8_t* data, size_t size) {
  damaged = untidy = false;
  begin = data;
  end = data + size;
}

}  // namespace fastimae
