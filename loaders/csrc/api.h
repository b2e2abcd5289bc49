// The engine's C interface, for ctypes (loaders/native_library.py) and the drivers in tests/fuzz.
//
// No function throws. The caller owns all memory that it passes and keeps it valid while in use.
#pragma once

#include <stdint.h>

#define FASTIMAE_API extern "C" __attribute__((visibility("default")))

// Raise this with every change to the interface, so that Python refuses a library that is older.
constexpr int kFastimaeAbi = 3;

// fastimae::Columns
struct FastimaeColumns {
  const uint8_t* file;
  int64_t count;
  const int64_t *positions, *sizes, *heights, *widths;
  const uint8_t* is_jpeg;
  const int64_t *trailer_positions, *trailer_sizes;
  int32_t raw_channels, raw_value_bytes;
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
// "avx512vnni", "avx2" or "plain": the instructions that resizing uses on this processor.
FASTIMAE_API const char* fastimae_simd();
// Version of libjpeg-turbo's headers at build time, as 2001005.
FASTIMAE_API int fastimae_libjpeg();
// Whether our Huffman decoder agrees with libjpeg on a small image; tested by the first call.
FASTIMAE_API int fastimae_own_entropy();

// channels: raw_channels, or 1 for gray from RGB; values have raw_value_bytes.
// nullptr if they do not fit, there is not enough memory or the threads cannot be started.
FASTIMAE_API FastimaeEngine* fastimae_engine_new(const FastimaeColumns* columns, int height,
                                                 int width, int channels, int64_t max_pixels,
                                                 int threads);
FASTIMAE_API void fastimae_engine_free(FastimaeEngine* engine);
// nullptr if there is not enough memory.
FASTIMAE_API FastimaeJob* fastimae_submit(FastimaeEngine* engine, const FastimaeRows* rows);
// Waits at most that many milliseconds; returns whether the job is done.
FASTIMAE_API int fastimae_wait(FastimaeEngine* engine, FastimaeJob* job, int milliseconds);
// Cancels what has not started, waits for the rest.
FASTIMAE_API void fastimae_job_free(FastimaeEngine* engine, FastimaeJob* job);
// uint64 [5]: nanoseconds for read, entropy, pixels, resize; number of images.
FASTIMAE_API void fastimae_stage_times(FastimaeEngine* engine, uint64_t* times);

// Decodes a file completely; returns a Status, with the reason in `problem`. `rows` receives up to
// `capacity` fastimae::RowStart of 12 bytes, `count` their number: 0 if only libjpeg can read it.
FASTIMAE_API int32_t fastimae_inspect(const uint8_t* data, int64_t size, int64_t max_pixels,
                                      void* rows, int64_t capacity, int64_t* count, char* problem);
// Decodes a window of a file, without resizing; returns a Status. `out` has room for 3 bytes per
// pixel; `channels` receives the number written. `rows`: `count` RowStart that are assumed known.
FASTIMAE_API int32_t fastimae_decode(const uint8_t* data, int64_t size, int height, int width,
                                     const int32_t* window, int own_entropy, const void* rows,
                                     int64_t count, uint8_t* out, int* channels, char* problem);
// simd: -1 for the best, 0 plain, 1 AVX2, 2 AVX-512 VNNI. Returns 1 if this processor lacks it or
// there is not enough memory.
FASTIMAE_API int fastimae_resize(const uint8_t* pixels, int height, int width, int channels,
                                 uint8_t* out, int out_height, int out_width, int out_channels,
                                 int flip, int simd);
// As above with any number of channels, kept, of 1 or 2 bytes per value (csrc/resize_bands.h).
FASTIMAE_API int fastimae_resize_bands(const uint8_t* pixels, int height, int width, int channels,
                                       int value_bytes, uint8_t* out, int out_height,
                                       int out_width, int flip);
FASTIMAE_API uint32_t fastimae_crc32(const uint8_t* data, int64_t size);
