// Small JPEG files of all kinds, as initial inputs for the fuzzers.
#pragma once

#include <algorithm>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <random>
#include <vector>

#include <jpeglib.h>

enum class Lacks { kNothing, kHuffman, kTables, kLastScan };

struct SeedKind {
  int height, width;
  J_COLOR_SPACE space;  // of the file: JCS_YCbCr, JCS_GRAYSCALE, JCS_RGB, JCS_CMYK
  int h, v;             // sampling factors of the first component
  bool progressive, arithmetic;
  int restart;  // interval in MCUs, 0 for none
  int quality;
  Lacks lacks = Lacks::kNothing;
};

inline const std::vector<SeedKind>& seed_kinds() {
  constexpr auto kColour = JCS_YCbCr, kGray = JCS_GRAYSCALE;
  static const std::vector<SeedKind> kinds = {
      {37, 53, kColour, 2, 2, false, false, 0, 90},
      {40, 64, kColour, 1, 1, false, false, 0, 95},
      {33, 70, kColour, 2, 1, false, false, 3, 80},
      {61, 29, kColour, 1, 2, false, false, 1, 70},
      {24, 90, kColour, 4, 1, false, false, 0, 60},
      {50, 41, kGray, 1, 1, false, false, 0, 90},
      {48, 48, kGray, 2, 2, false, false, 5, 30},
      {35, 35, JCS_RGB, 1, 1, false, false, 0, 90},
      {30, 45, JCS_CMYK, 1, 1, false, false, 0, 80},
      {45, 60, kColour, 2, 2, true, false, 0, 85},
      {31, 47, kGray, 1, 1, true, false, 2, 85},
      {42, 39, kColour, 2, 2, false, true, 0, 85},
      {1, 1, kColour, 2, 2, false, false, 0, 90},
      {160, 120, kColour, 2, 2, false, false, 8, 100},
      {40, 56, kColour, 2, 2, false, false, 0, 90, Lacks::kHuffman},
      {32, 40, kGray, 1, 1, false, false, 0, 75, Lacks::kHuffman},
      {30, 50, kColour, 2, 1, false, false, 0, 90, Lacks::kTables},
      {44, 52, kColour, 2, 2, true, false, 0, 85, Lacks::kHuffman},
      {52, 44, kColour, 2, 2, true, false, 0, 85, Lacks::kLastScan},
  };
  return kinds;
}

// Removes the segments of one kind.
inline void remove_segments(std::vector<uint8_t>* file, uint8_t marker) {
  for (size_t at = 2; at + 4 <= file->size() && (*file)[at] == 0xFF && (*file)[at + 1] != 0xDA;) {
    const size_t length = 2 + ((*file)[at + 2] << 8 | (*file)[at + 3]);
    if ((*file)[at + 1] == marker)
      file->erase(file->begin() + at, file->begin() + at + length);
    else
      at += length;
  }
}

inline void remove_last_scan(std::vector<uint8_t>* file) {
  const uint8_t scan[] = {0xFF, 0xDA};
  file->erase(std::find_end(file->begin(), file->end(), scan, scan + 2), file->end() - 2);
}

// A picture with smooth and rough parts.
inline std::vector<uint8_t> make_jpeg(const SeedKind& kind, unsigned seed) {
  const int channels = kind.space == JCS_GRAYSCALE ? 1 : kind.space == JCS_CMYK ? 4 : 3;
  std::mt19937 random(seed);
  std::vector<uint8_t> pixels(size_t(kind.height) * kind.width * channels);
  for (int y = 0, i = 0; y < kind.height; ++y)
    for (int x = 0; x < kind.width; ++x)
      for (int c = 0; c < channels; ++c, ++i)
        pixels[i] = x < kind.width / 2 ? random() % 256 : (3 * x + 5 * y + 60 * c) % 256;

  jpeg_compress_struct info{};
  jpeg_error_mgr errors;
  info.err = jpeg_std_error(&errors);
  jpeg_create_compress(&info);
  unsigned char* memory = nullptr;
  unsigned long size = 0;
  jpeg_mem_dest(&info, &memory, &size);
  info.image_height = kind.height;
  info.image_width = kind.width;
  info.input_components = channels;
  info.in_color_space = channels == 1 ? JCS_GRAYSCALE : channels == 4 ? JCS_CMYK : JCS_RGB;
  jpeg_set_defaults(&info);
  jpeg_set_colorspace(&info, kind.space);
  jpeg_set_quality(&info, kind.quality, TRUE);
  info.comp_info[0].h_samp_factor = kind.h;
  info.comp_info[0].v_samp_factor = kind.v;
  info.arith_code = kind.arithmetic;
  info.optimize_coding = seed % 2 && !kind.arithmetic && kind.lacks == Lacks::kNothing;
  info.restart_interval = kind.restart;
  if (kind.progressive) jpeg_simple_progression(&info);
  jpeg_start_compress(&info, TRUE);
  while (info.next_scanline < info.image_height) {
    JSAMPROW row = pixels.data() + size_t(info.next_scanline) * kind.width * channels;
    jpeg_write_scanlines(&info, &row, 1);
  }
  jpeg_finish_compress(&info);
  std::vector<uint8_t> file(memory, memory + size);
  std::free(memory);
  jpeg_destroy_compress(&info);
  if (kind.lacks == Lacks::kHuffman || kind.lacks == Lacks::kTables) remove_segments(&file, 0xC4);
  if (kind.lacks == Lacks::kTables) remove_segments(&file, 0xDB);
  if (kind.lacks == Lacks::kLastScan) remove_last_scan(&file);
  return file;
}
