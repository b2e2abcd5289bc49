// The entropy decoder's self-test against libjpeg, run before its first use.
#include <csetjmp>
#include <cstdlib>
#include <vector>

#include "entropy.h"

namespace fastimae {
namespace {

constexpr int kHeight = 72, kWidth = 88;
constexpr int kTop = 35, kRows = 20;  // the first row decoded, and their number

struct ErrorManager {
  jpeg_error_mgr base;  // must be the first
  std::jmp_buf back;
};

void on_error(j_common_ptr info) {
  std::longjmp(reinterpret_cast<ErrorManager*>(info->err)->back, 1);
}

void on_message(j_common_ptr, int) {}

jpeg_error_mgr* prepare(ErrorManager* errors) {
  jpeg_std_error(&errors->base);
  errors->base.error_exit = on_error;
  errors->base.emit_message = on_message;
  return &errors->base;
}

// A colour gradient with noise, at the chroma sampling of most files: 4:2:0.
// The caller frees *file.
bool encode(unsigned char** file, unsigned long* size) {
  jpeg_compress_struct info{};
  ErrorManager errors;
  info.err = prepare(&errors);
  if (setjmp(errors.back)) {
    jpeg_destroy_compress(&info);
    return false;
  }
  jpeg_create_compress(&info);
  jpeg_mem_dest(&info, file, size);
  info.image_width = kWidth;
  info.image_height = kHeight;
  info.input_components = 3;
  info.in_color_space = JCS_RGB;
  jpeg_set_defaults(&info);
  jpeg_start_compress(&info, TRUE);
  uint32_t noise = 1;
  for (int y = 0; y < kHeight; y++) {
    JSAMPLE row[3 * kWidth];
    for (int i = 0; i < 3 * kWidth; i++) {
      noise = noise * 1664525 + 1013904223;
      row[i] = (i % 3 == 0 ? y : i / 3) + (noise >> 26);
    }
    JSAMPROW rows[] = {row};
    jpeg_write_scanlines(&info, rows, 1);
  }
  jpeg_finish_compress(&info);
  jpeg_destroy_compress(&info);
  return true;
}

// Decodes the middle of the image, so that libjpeg has to skip rows and columns.
bool decode(const unsigned char* file, unsigned long size, EntropyDecoder* decoder,
            std::vector<RowStart>* starts, uint8_t* pixels) {
  jpeg_decompress_struct info{};
  ErrorManager errors;
  info.err = prepare(&errors);
  if (setjmp(errors.back)) {
    jpeg_destroy_decompress(&info);
    return false;
  }
  jpeg_create_decompress(&info);
  jpeg_mem_src(&info, const_cast<unsigned char*>(file), size);
  jpeg_read_header(&info, TRUE);
  jpeg_start_decompress(&info);
  JDIMENSION left = kWidth / 4, width = kWidth / 2;
  jpeg_crop_scanline(&info, &left, &width);
  bool sound = true;
  if (decoder) {
    const int last_column = static_cast<int>(left + width - 1) / 16;
    sound = decoder->attach(&info, file, size, (kTop - 2) / 16, (kTop + kRows + 1) / 16,
                            last_column, starts);
  }
  jpeg_skip_scanlines(&info, kTop);
  for (int y = 0; y < kRows; y++) {
    JSAMPROW rows[] = {pixels + 3 * kWidth * y};
    jpeg_read_scanlines(&info, rows, 1);
  }
  jpeg_abort_decompress(&info);
  jpeg_destroy_decompress(&info);
  return sound && (!decoder || !decoder->problem());
}

}  // namespace

bool entropy_self_test() {
  unsigned char* file = nullptr;
  unsigned long size = 0;
  const std::vector<uint8_t> blank(3 * kWidth * kRows);
  std::vector<uint8_t> theirs = blank, found = blank, known = blank;
  std::vector<RowStart> starts;
  EntropyDecoder decoder;
  const bool sound = encode(&file, &size) &&
                     decode(file, size, nullptr, nullptr, theirs.data()) &&
                     decode(file, size, &decoder, &starts, found.data()) &&
                     decode(file, size, &decoder, &starts, known.data());
  std::free(file);
  return sound && theirs != blank && found == theirs && known == theirs;
}

}  // namespace fastimae
