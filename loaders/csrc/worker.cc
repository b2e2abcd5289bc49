#include "worker.h"

#include <algorithm>
#include <chrono>
#include <cstring>

namespace fastimae {
namespace {

using Clock = std::chrono::steady_clock;

uint64_t nanoseconds_since(Clock::time_point start) {
  return std::chrono::duration_cast<std::chrono::nanoseconds>(Clock::now() - start).count();
}

// Written by one thread only, so that no locked instruction is needed.
void add(std::atomic<uint64_t>& counter, uint64_t value) {
  counter.store(counter.load(std::memory_order_relaxed) + value, std::memory_order_relaxed);
}

// The smallest window that contains those of all crops.
Window union_of(const std::vector<Crop>& crops) {
  int top = crops[0].window.top, left = crops[0].window.left, bottom = 0, right = 0;
  for (const Crop& crop : crops) {
    const Window& window = crop.window;
    top = std::min(top, window.top);
    left = std::min(left, window.left);
    bottom = std::max(bottom, window.top + window.height);
    right = std::max(right, window.left + window.width);
  }
  return Window{top, left, bottom - top, right - left};
}

bool is_inside(const Window& window, int height, int width) {
  return window.top >= 0 && window.left >= 0 && window.height > 0 && window.width > 0 &&
         window.height <= height - window.top && window.width <= width - window.left;
}

View part_of(const View& view, const Window& whole, const Window& part) {
  const uint8_t* first = view.pixels + (part.top - whole.top) * view.stride +
                         (part.left - whole.left) * view.pixel_bytes();
  return View{first,         part.height, part.width,
              view.channels, view.stride, view.value_bytes};
}

}  // namespace

Worker::Worker(Dataset& dataset, const Output& output)
    : dataset_(dataset), output_(output), jpeg_(output.own_entropy, output.max_pixels) {}

Status Worker::make_crops(int64_t index, const std::vector<Crop>& crops) {
  const Sample sample = dataset_.sample(index);
  const Window window = union_of(crops);
  problem_.clear();
  if (!is_inside(window, sample.height, sample.width)) {
    problem_ = "the requested window is outside of the image";
    return Status::kMismatch;
  }
  const int64_t pixels = int64_t{sample.height} * sample.width;
  if (pixels > output_.max_pixels) {
    problem_ = too_many(pixels, output_.max_pixels);
    return Status::kDamaged;
  }
  auto start = Clock::now();
  Status status = dataset_.is_good(index) ? Status::kOk : check(index, sample);
  add(read_, nanoseconds_since(start));
  if (status != Status::kOk) return status;

  start = Clock::now();
  View view{};
  status = decode(index, sample, window, &view);
  const uint64_t entropy = sample.is_jpeg ? jpeg_.entropy_nanoseconds() : 0;
  add(entropy_, entropy);
  add(pixels_, nanoseconds_since(start) - entropy);
  if (status != Status::kOk) return status;

  start = Clock::now();
  for (const Crop& crop : crops) resize(part_of(view, window, crop.window), crop);
  add(resize_, nanoseconds_since(start));
  add(images_, crops.size());
  return Status::kOk;
}

// Whether a sample is good must not depend on the requested windows, nor on which thread is first.
// So a sample that no trailer vouches for is decoded completely before any of it is used.
Status Worker::check(int64_t index, const Sample& sample) {
  const Evidence evidence = dataset_.evidence(index);
  if (evidence == Evidence::kDamaged) {
    problem_ = "its bytes are not those that were written: the checksum differs";
    return Status::kChecksum;
  }
  if (evidence == Evidence::kUnproven && sample.is_jpeg) {
    const Status status = jpeg_.inspect(sample.data, sample.size, &starts_);
    if (status != Status::kOk) {
      problem_ = jpeg_.problem();
      return status;
    }
    dataset_.keep_rows(index, starts_);
  }
  dataset_.mark_good(index);
  return Status::kOk;
}

Status Worker::decode(int64_t index, const Sample& sample, const Window& window, View* view) {
  if (sample.is_jpeg) {
    dataset_.load_rows(index, &starts_);
    const size_t known = starts_.size();
    const JpegRequest request{sample.data, sample.size, sample.height, sample.width, window};
    const Status status = jpeg_.decode(request, &starts_, view);
    if (status != Status::kOk) {
      problem_ = jpeg_.problem();
      // The sample is known to be good, so a problem here is left to Pillow.
      return status == Status::kDamaged ? Status::kUnsupported : status;
    }
    if (starts_.size() > known) dataset_.keep_rows(index, starts_);
  } else {
    copy_raw(sample, window, view);
  }
  if (output_.channels == 1 && view->channels == 3) to_gray(view);  // never of 16 bits
  return Status::kOk;
}

void Worker::resize(const View& view, const Crop& crop) {
  if (view.value_bytes == 1 && (view.channels == 3 || view.channels == 1))
    resizer_.resize(view, crop.out, output_.height, output_.width, output_.channels, crop.flip);
  else
    band_resizer_.resize(view, crop.out, output_.height, output_.width, crop.flip);
}

// Copies the pixels, because the bytes after the file's last sample may not be readable.
void Worker::copy_raw(const Sample& sample, const Window& window, View* view) {
  const size_t pixel = size_t(sample.channels) * sample.value_bytes;
  const size_t bytes = window.width * pixel;
  raw_.reserve(window.height, bytes);
  for (int y = 0; y < window.height; ++y) {
    const size_t first = (size_t(window.top + y) * sample.width + window.left) * pixel;
    std::memcpy(raw_.row(y), sample.data + first, bytes);
  }
  *view = View{raw_.row(0),     window.height, window.width,
               sample.channels, raw_.stride(), sample.value_bytes};
}

// ITU-R 601 luma in 16-bit fixed point, as Pillow converts RGB to L.
void Worker::to_gray(View* view) {
  gray_.reserve(view->height, view->width);
  for (int y = 0; y < view->height; ++y) {
    const uint8_t* in = view->pixels + y * view->stride;
    uint8_t* out = gray_.row(y);
    for (int x = 0; x < view->width; ++x, in += 3)
      out[x] = static_cast<uint8_t>((in[0] * 19595 + in[1] * 38470 + in[2] * 7471 + 0x8000) >> 16);
  }
  *view = View{gray_.row(0), view->height, view->width, 1, gray_.stride()};
}

StageTimes Worker::times() const {
  return StageTimes{read_.load(std::memory_order_relaxed), entropy_.load(std::memory_order_relaxed),
                    pixels_.load(std::memory_order_relaxed),
                    resize_.load(std::memory_order_relaxed),
                    images_.load(std::memory_order_relaxed)};
}

}  // namespace fastimae
