#include "api.h"

#include <algorithm>
#include <cstdio>
#include <cstring>
#include <memory>
#include <new>

#include "crc32.h"
#include "engine.h"
#include "entropy.h"
#include "jpeg_crop.h"
#include "pixel_buffer.h"
#include "resize.h"
#include "resize_bands.h"

using namespace fastimae;

static_assert(sizeof(Window) == 4 * sizeof(int32_t), "windows are int32 [N, 4]");
static_assert(sizeof(RowStart) == 12, "as in the trailers of a .beton file");

struct FastimaeEngine {
  Engine engine;
};

struct FastimaeJob {
  std::shared_ptr<Job> job;
};

namespace {

void set_problem(const std::string& problem, char* out) {
  std::snprintf(out, kProblemBytes, "%s", problem.c_str());
}

// `function()`, or `otherwise` if it runs out of memory or threads.
template <typename Function, typename Result>
Result guarded(Function function, Result otherwise) {
  try {
    return function();
  } catch (const std::exception&) {
    return otherwise;
  }
}

}  // namespace

int fastimae_abi() { return kFastimaeAbi; }

int fastimae_problem_bytes() { return kProblemBytes; }

const char* fastimae_simd() {
  switch (best_simd()) {
    case Simd::kAvx512Vnni:
      return "avx512vnni";
    case Simd::kAvx2:
      return "avx2";
    default:
      return "plain";
  }
}

int fastimae_libjpeg() { return LIBJPEG_TURBO_VERSION_NUMBER; }

int fastimae_own_entropy() {
  static const bool works = entropy_self_test();
  return works;
}

FastimaeEngine* fastimae_engine_new(const FastimaeColumns* c, int height, int width, int channels,
                                    int64_t max_pixels, int threads) {
  const Columns columns{c->file,    c->count,  c->positions, c->sizes,
                        c->heights, c->widths, c->is_jpeg,   c->trailer_positions,
                        c->trailer_sizes, c->raw_channels, c->raw_value_bytes};
  const bool rgb = c->raw_channels == 3 && c->raw_value_bytes == 1;
  if (channels != c->raw_channels && !(rgb && channels == 1)) return nullptr;
  const Output output{height,           width,      channels,
                      c->raw_value_bytes, max_pixels, fastimae_own_entropy() != 0};
  const auto make = [&] { return new FastimaeEngine{{columns, output, threads}}; };
  return guarded(make, static_cast<FastimaeEngine*>(nullptr));
}

void fastimae_engine_free(FastimaeEngine* engine) { delete engine; }

FastimaeJob* fastimae_submit(FastimaeEngine* engine, const FastimaeRows* r) {
  const Rows rows{r->count, r->samples, reinterpret_cast<const Window*>(r->windows),
                  r->flips, r->out,     r->status, r->problems};
  const auto start = [&] { return new FastimaeJob{engine->engine.submit(rows)}; };
  return guarded(start, static_cast<FastimaeJob*>(nullptr));
}

int fastimae_wait(FastimaeEngine* engine, FastimaeJob* job, int milliseconds) {
  return engine->engine.wait(*job->job, milliseconds);
}

void fastimae_job_free(FastimaeEngine* engine, FastimaeJob* job) {
  engine->engine.cancel(*job->job);
  delete job;
}

void fastimae_stage_times(FastimaeEngine* engine, uint64_t* times) {
  const StageTimes sum = engine->engine.times();
  const uint64_t values[] = {sum.read, sum.entropy, sum.pixels, sum.resize, sum.images};
  std::memcpy(times, values, sizeof values);
}

int32_t fastimae_inspect(const uint8_t* data, int64_t size, int64_t max_pixels, void* rows,
                         int64_t capacity, int64_t* count, char* problem) {
  *count = 0;
  set_problem("not enough memory", problem);
  const auto look = [&] {
    JpegDecoder decoder(fastimae_own_entropy() != 0, max_pixels);
    std::vector<RowStart> starts;
    const Status status = decoder.inspect(data, size, &starts);
    if (static_cast<int64_t>(starts.size()) <= capacity) {
      *count = static_cast<int64_t>(starts.size());
      std::copy(starts.begin(), starts.end(), static_cast<RowStart*>(rows));
    }
    set_problem(decoder.problem(), problem);
    return static_cast<int32_t>(status);
  };
  return guarded(look, static_cast<int32_t>(Status::kDamaged));
}

int32_t fastimae_decode(const uint8_t* data, int64_t size, int height, int width,
                        const int32_t* w, int own_entropy, const void* rows, int64_t count,
                        uint8_t* out, int* channels, char* problem) {
  set_problem("not enough memory", problem);
  const auto decode = [&] {
    JpegDecoder decoder(own_entropy != 0, int64_t{height} * width);
    const Window window{w[0], w[1], w[2], w[3]};
    std::vector<RowStart> starts(count);
    if (count > 0) std::memcpy(starts.data(), rows, count * sizeof(RowStart));
    View view{};
    const JpegRequest request{data, static_cast<size_t>(size), height, width, window};
    const Status status = decoder.decode(request, &starts, &view);
    set_problem(decoder.problem(), problem);
    if (status == Status::kOk) {
      *channels = view.channels;
      const size_t bytes = size_t(view.width) * view.channels;
      for (int y = 0; y < view.height; ++y)
        std::memcpy(out + y * bytes, view.pixels + y * view.stride, bytes);
    }
    return static_cast<int32_t>(status);
  };
  return guarded(decode, static_cast<int32_t>(Status::kDamaged));
}

int fastimae_resize(const uint8_t* pixels, int height, int width, int channels, uint8_t* out,
                    int out_height, int out_width, int out_channels, int flip, int simd) {
  const Simd wanted = simd < 0 ? best_simd() : static_cast<Simd>(simd);
  if (wanted > best_simd()) return 1;
  const auto resize = [&] {
    PixelBuffer padded;
    const size_t bytes = size_t(width) * channels;
    padded.reserve(height, bytes);
    for (int y = 0; y < height; ++y) std::memcpy(padded.row(y), pixels + y * bytes, bytes);
    const View view{padded.row(0), height, width, channels, padded.stride()};
    Resizer(wanted).resize(view, out, out_height, out_width, out_channels, flip != 0);
    return 0;
  };
  return guarded(resize, 1);
}

int fastimae_resize_bands(const uint8_t* pixels, int height, int width, int channels,
                          int value_bytes, uint8_t* out, int out_height, int out_width, int flip) {
  const ptrdiff_t stride = ptrdiff_t{width} * channels * value_bytes;
  const View view{pixels, height, width, channels, stride, value_bytes};
  const auto resize = [&] {
    BandResizer().resize(view, out, out_height, out_width, flip != 0);
    return 0;
  };
  return guarded(resize, 1);
}

uint32_t fastimae_crc32(const uint8_t* data, int64_t size) { return crc32(data, size); }
