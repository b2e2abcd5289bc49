// The engine as C functions, for ctypes (loaders/native_library.py) and the drivers in tests/fuzz.
//
// No function throws. Pointers stay the caller's and must be valid while they are in use.
#pragma once

#include <stdint.h>

#define FASTIMAE_API extern "C" __attribute__((visibility("default")))

// To be raised with each change of this file, so that Python refuses a library built from another.
constexpr int kFastimaeAbi = 2;

// fastimae::Columns
struct FastimaeColumns {
  const uint8_t* file;
  int64_t count;
  const int64_t *positions, *sizes, *heights, *widths;
  const uint8_t* is_jpeg;
  const int64_t *trailer_positions, *trailer_sizes;
};

// fastimae::Rows; windows are (top, left, height, width)
struct FastimaeRows {
  int64_t count;
  const int64_t* samples;
  const int32_t* windows;
  const uint8_t* flips;
  uint8_t* out;
  int32_t* status;
  char* problems;
};

struct FastimaeEngine;
struct FastimaeJob;

FASTIMAE_API int fastimae_abi();
FASTIMAE_API int fastimae_problem_bytes();
// "avx512vnni", "avx2" or "plain": what resizing uses on this processor.
FASTIMAE_API const char* fastimae_simd();
// Version of libjpeg-turbo's headers at build time, as 2001005.
FASTIMAE_API int fastimae_libjpeg();
// Whether our Huffman decoder gives what libjpeg gives on a small image; the first call finds out.
FASTIMAE_API int fastimae_own_entropy();

// nullptr if there is not enough memory, or no more threads can be had.
FASTIMAE_API FastimaeEngine* fastimae_engine_new(const FastimaeColumns* columns, int height,
                                                 int width, int channels, int64_t max_pixels,
                                                 int threads);
FASTIMAE_API void fastimae_engine_free(FastimaeEngine* engine);
// nullptr if there is not enough memory.
FASTIMAE_API FastimaeJob* fastimae_submit(FastimaeEngine* engine, const FastimaeRows* rows);
// Whether the job is done, at the latest after so many milliseconds.
FASTIMAE_API int fastimae_wait(FastimaeEngine* engine, FastimaeJob* job, int milliseconds);
// Cancels what has not begun, waits for what has.
FASTIMAE_API void fastimae_job_free(FastimaeEngine* engine, FastimaeJob* job);
// uint64 [5]: nanoseconds of read, entropy, pixels, resize; images.
FASTIMAE_API void fastimae_stage_times(FastimaeEngine* engine, uint64_t* times);

// A file decoded completely: a Status, with the problem in `problem`. `rows` takes up to `capacity`
// fastimae::RowStart of 12 bytes; `count` tells how many there are, 0 if only libjpeg reads it.
FASTIMAE_API int32_t fastimae_inspect(const uint8_t* data, int64_t size, int64_t max_pixels,
                                      void* rows, int64_t capacity, int64_t* count, char* problem);
// The window of a file at its own size: a Status. `out` has room for height * width * 3 bytes;
// `channels` tells how many there are. `rows`: `count` RowStart that are taken as known.
FASTIMAE_API int32_t fastimae_decode(const uint8_t* data, int64_t size, int height, int width,
                                     const int32_t* window, int own_entropy, const void* rows,
                                     int64_t count, uint8_t* out, int* channels, char* problem);
// simd: -1 for the best, 0 plain, 1 AVX2, 2 AVX-512 VNNI. Returns 1 if this processor lacks it or
// there is not enough memory.
FASTIMAE_API int fastimae_resize(const uint8_t* pixels, int height, int width, int channels,
                                 uint8_t* out, int out_height, int out_width, int out_channels,
                                 int flip, int simd);
FASTIMAE_API uint32_t fastimae_crc32(const uint8_t* data, int64_t size);
