// Handling of libjpeg's messages: errors jump to the caller, the first sign of damage is kept.
#pragma once

#include <csetjmp>
#include <cstddef>
#include <cstdint>
#include <cstdio>  // jpeglib.h needs it

#include <jpeglib.h>

namespace fastimae {

struct JpegErrors {
  jpeg_error_mgr base;  // must be the first
  std::jmp_buf back;    // set by the caller of libjpeg
  char message[JMSG_LENGTH_MAX];
  bool damaged;
  bool untidy;  // there are bytes between the header's segments, which Pillow may refuse
  const uint8_t *begin, *end;  // of the file

  // Returns the value for `info->err`.
  jpeg_error_mgr* manager();
  void start(const uint8_t* data, size_t size);
};

}  // namespace fastimae
