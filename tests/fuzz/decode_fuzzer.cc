// Fuzzer that feeds arbitrary bytes to the decode engine.
//
// It finds errors that sanitizers notice, hangs, and pixels that differ between our Huffman decoder
// and libjpeg's, or depend on earlier files. The Makefile here builds and starts it.
//
// Input: kControlBytes that choose window and rows, then a JPEG file.
#include <algorithm>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <string>
#include <vector>

#include "api.h"
#include "image.h"
#include "seeds.h"

using fastimae::RowStart;
using fastimae::Status;

namespace {

constexpr size_t kControlBytes = 24;
constexpr int kMaxSide = 1024;  // larger images are slow and find nothing new
constexpr int64_t kMaxPixels = 1 << 18;
constexpr auto kUnsupported = static_cast<int32_t>(Status::kUnsupported);

enum Rows { kNone, kTrue, kWrong, kGarbage };

// The control bytes, read one after the other.
struct Control {
  const uint8_t* next;
  int byte() { return *next++; }
  // In [0, count).
  int below(int count) {
    const int value = byte();
    return (value << 8 | byte()) % count;
  }
};

struct Size {
  int height, width;
};

// According to the first start-of-frame marker, which may not be the one that libjpeg uses.
Size size_in_header(const uint8_t* data, size_t size) {
  for (size_t i = 0; i + 9 < size; ++i)
    if (data[i] == 0xFF && data[i + 1] >= 0xC0 && data[i + 1] <= 0xCF && data[i + 1] != 0xC4 &&
        data[i + 1] != 0xC8 && data[i + 1] != 0xCC)
      return Size{data[i + 5] << 8 | data[i + 6], data[i + 7] << 8 | data[i + 8]};
  return Size{16, 16};
}

[[noreturn]] void fail(const char* what) {
  std::fprintf(stderr, "decode_fuzzer: %s\n", what);
  std::abort();
}

struct Decoded {
  Status status;
  std::string problem;
  std::vector<uint8_t> pixels;
};

void require_equal(const Decoded& libjpeg, const Decoded& ours, const int32_t* window) {
  if (libjpeg.pixels == ours.pixels) return;
  std::fprintf(stderr, "window %d %d %d %d: libjpeg %d %s, ours %d %s\n", window[0], window[1],
               window[2], window[3], int(libjpeg.status), libjpeg.problem.c_str(),
               int(ours.status), ours.problem.c_str());
  fail("our decoder differs from libjpeg's");
}

Decoded decode(const uint8_t* data, size_t size, Size image, const int32_t* window, bool own,
               const std::vector<RowStart>& rows) {
  char problem[256] = "";
  int channels = 0;
  std::vector<uint8_t> out(size_t(window[2]) * window[3] * 3);
  const int32_t status =
      fastimae_decode(data, size, image.height, image.width, window, own, rows.data(),
                      rows.size(), out.data(), &channels, problem);
  if (status == 0 && channels != 1 && channels != 3) fail("neither gray nor RGB");
  out.resize(size_t(window[2]) * window[3] * channels);
  return Decoded{static_cast<Status>(status), problem, std::move(out)};
}

std::vector<RowStart> choose_rows(Rows kind, const std::vector<RowStart>& found, Control control,
                                  const uint8_t* data, size_t size) {
  if (kind == kNone) return {};
  std::vector<RowStart> rows = found;
  if (kind == kGarbage) {
    rows.resize(std::min<size_t>(size, 4096) / sizeof(RowStart));
    if (!rows.empty()) std::memcpy(rows.data(), data, rows.size() * sizeof(RowStart));
    if (control.byte() % 4)  // not far outside the file
      for (RowStart& row : rows) row.bit %= 8 * size + 100;
  } else if (kind == kWrong && !rows.empty()) {
    RowStart& row = rows[control.below(static_cast<int>(rows.size()))];
    row.bit ^= 1u << (control.byte() % 32);
    row.dc[0] ^= static_cast<int16_t>(control.byte() << 8);
  }
  return rows;
}

// At FF FF 00, which no encoder writes, libjpeg-turbo leaves coefficients of its fast path in the
// block, so its pixels are no reference there.
bool has_doubled_ff(const uint8_t* data, size_t size) {
  const uint8_t doubled[] = {0xFF, 0xFF};
  return std::search(data, data + size, doubled, doubled + 2) != data + size;
}

// Pixels that libjpeg decodes alone must be the same with our decoder.
void compare(const uint8_t* data, size_t size, Control control) {
  const Size image = size_in_header(data, size);
  if (image.height < 1 || image.width < 1 || image.height > kMaxSide || image.width > kMaxSide ||
      int64_t{image.height} * image.width > kMaxPixels)
    return;
  const auto kind = static_cast<Rows>(control.byte() % 4);
  int32_t window[4];
  window[0] = control.below(image.height);
  window[1] = control.below(image.width);
  window[2] = 1 + control.below(image.height - window[0]);
  window[3] = 1 + control.below(image.width - window[1]);

  char problem[256];
  int64_t count = 0;
  std::vector<RowStart> found(kMaxSide);
  const int32_t status =
      fastimae_inspect(data, size, kMaxPixels, found.data(), found.size(), &count, problem);
  found.resize(count);

  const Decoded theirs = decode(data, size, image, window, false, {});
  const Decoded ours = decode(data, size, image, window, true, {});
  const Decoded jumped =
      decode(data, size, image, window, true, choose_rows(kind, found, control, data, size));
  if (has_doubled_ff(data, size)) return;
  if (theirs.status == Status::kOk) require_equal(theirs, ours, window);
  if (status == 0 && kind == kTrue) require_equal(theirs, jumped, window);
}

// The trailer that loaders/beton/trailer.py writes after a sample.
void append_trailer(std::vector<uint8_t>* file, const std::vector<RowStart>& rows, bool older,
                    bool vouches) {
  const size_t first = file->size();
  const uint32_t head[] = {older ? 0x31544D46u : 0x32544D46u, fastimae_crc32(file->data(), first),
                           vouches ? 3u : 0u, static_cast<uint32_t>(rows.size())};
  const auto append = [&](const void* bytes, size_t size) {
    const auto* begin = static_cast<const uint8_t*>(bytes);
    file->insert(file->end(), begin, begin + size);
  };
  append(head, sizeof head);
  append(rows.data(), rows.size() * sizeof(RowStart));
  const uint32_t crc = fastimae_crc32(file->data() + first, file->size() - first);
  append(&crc, sizeof crc);
}

// A sample for an engine, in a separate allocation so that reading past the end is noticed.
struct TestSample {
  std::vector<uint8_t> bytes;
  int64_t position = 0, size, height, width, trailer = 0, trailer_size = 0;
  uint8_t is_jpeg = 1;
  int32_t raw_channels = 3, raw_value_bytes = 1;

  TestSample(std::vector<uint8_t> file, Size image)
      : bytes(std::move(file)), size(bytes.size()), height(image.height), width(image.width) {}

  FastimaeEngine* engine(int out_height, int out_width, int channels) const {
    const FastimaeColumns columns{bytes.data(), 1,        &position, &size,        &height,
                                  &width,       &is_jpeg, &trailer,  &trailer_size,
                                  raw_channels, raw_value_bytes};
    FastimaeEngine* made =
        fastimae_engine_new(&columns, out_height, out_width, channels, kMaxPixels, /*threads=*/0);
    if (!made) fail("no engine");
    return made;
  }
};

void run(FastimaeEngine* engine, const FastimaeRows& rows) {
  FastimaeJob* job = fastimae_submit(engine, &rows);
  if (!job || !fastimae_wait(engine, job, 0)) fail("a job without threads is not done");
  fastimae_job_free(engine, job);
}

// The complete engine on a file with a single sample, JPEG or raw, and perhaps a trailer.
void run_engine(const std::vector<uint8_t>& file, Control control) {
  const Size image = size_in_header(file.data(), file.size());
  if (image.height < 1 || image.width < 1) return;
  const int flags = control.byte();
  TestSample sample(file, image);
  const int64_t raw_size = int64_t{image.height} * image.width * 3;
  sample.is_jpeg = !(flags & 1) || raw_size > sample.size;
  if (!sample.is_jpeg) sample.bytes.resize(sample.size = raw_size);
  if (flags & 2) {
    sample.trailer = sample.size;
    const auto rows =
        choose_rows(flags & 4 ? kGarbage : kNone, {}, control, file.data(), sample.size);
    const int kind = control.byte();
    append_trailer(&sample.bytes, rows, kind & 1, kind & 2);
    sample.trailer_size = static_cast<int64_t>(sample.bytes.size()) - sample.trailer;
    if (flags & 8)
      sample.bytes[sample.trailer + control.below(sample.trailer_size)] ^= 1 << (kind >> 2) % 8;
    if (flags & 16) sample.trailer_size = control.below(static_cast<int>(sample.trailer_size));
  }
  const int side = 1 + control.byte() % 48, channels = flags & 32 ? 1 : 3;
  FastimaeEngine* engine = sample.engine(side, 64 - side, channels);

  constexpr int kRows = 2;
  const int64_t samples[kRows] = {0, 0};
  const uint8_t flips[kRows] = {0, 1};
  int32_t windows[kRows][4], status[kRows];
  for (auto& window : windows) {
    window[0] = control.below(image.height);
    window[1] = control.below(image.width);
    window[2] = 1 + control.byte() % (image.height - window[0]);
    window[3] = 1 + control.byte() % (image.width - window[1]);
  }
  if (flags & 64) windows[0][2] += image.height;  // outside: refused
  std::vector<uint8_t> out(size_t{kRows} * side * (64 - side) * channels);
  std::vector<char> problems(size_t{kRows} * fastimae_problem_bytes());
  const FastimaeRows rows{kRows, samples, windows[0], flips, out.data(), status, problems.data()};
  for (int again = 0; again < 2; ++again) run(engine, rows);  // rows and checksum are known now
  fastimae_engine_free(engine);
}

// The complete engine on raw pixels of any number of channels, of 8 or 16 bits.
void run_bands(const std::vector<uint8_t>& file, Control control) {
  const Size image{1 + control.byte() % 90, 1 + control.byte() % 90};
  TestSample sample(file, image);
  sample.is_jpeg = 0;
  sample.raw_channels = 1 + control.byte() % 14;
  sample.raw_value_bytes = 1 + control.byte() % 2;
  const size_t pixel = size_t(sample.raw_channels) * sample.raw_value_bytes;
  sample.bytes.resize(size_t(image.height) * image.width * pixel);
  sample.bytes.shrink_to_fit();
  sample.size = static_cast<int64_t>(sample.bytes.size());
  const Size out{1 + control.byte() % 64, 1 + control.byte() % 64};
  FastimaeEngine* engine = sample.engine(out.height, out.width, sample.raw_channels);
  int32_t window[4], status;
  window[0] = control.below(image.height);
  window[1] = control.below(image.width);
  window[2] = 1 + control.byte() % (image.height - window[0]);
  window[3] = 1 + control.byte() % (image.width - window[1]);
  const uint8_t flip = control.byte() & 1;
  const int64_t first = 0;
  std::vector<uint16_t> pixels((out.height * out.width * pixel + 1) / 2);  // aligned
  std::vector<char> problem(fastimae_problem_bytes());
  run(engine, {1, &first, window, &flip, reinterpret_cast<uint8_t*>(pixels.data()), &status,
               problem.data()});
  fastimae_engine_free(engine);
  if (status != 0) fail("raw pixels are refused");
}

// An engine's result for a sample.
struct Shown {
  int32_t status;
  std::vector<uint8_t> pixels;
  bool operator==(const Shown& other) const {
    return status == other.status && (status != 0 || pixels == other.pixels);
  }
};

// size: of the engine's output.
Shown show(FastimaeEngine* engine, Size size, int64_t sample, const int32_t* window) {
  Shown shown{0, std::vector<uint8_t>(size_t(size.height) * size.width * 3)};
  std::vector<char> problem(fastimae_problem_bytes());
  const uint8_t flip = 0;
  run(engine, {1, &sample, window, &flip, shown.pixels.data(), &shown.status, problem.data()});
  return shown;
}

// The pixels of a sample, and whether it is bad, must not depend on earlier decoding, nor on the
// window.
void compare_orders(const std::vector<uint8_t>& file, Control control) {
  const Size image = size_in_header(file.data(), file.size());
  if (image.height < 1 || image.width < 1 || image.height > kMaxSide || image.width > kMaxSide)
    return;
  static const std::vector<std::vector<uint8_t>> others = [] {
    std::vector<std::vector<uint8_t>> made;
    for (const SeedKind& kind : seed_kinds()) made.push_back(make_jpeg(kind, 1));
    return made;
  }();
  const size_t other = control.byte() % others.size();
  const Size other_image{seed_kinds()[other].height, seed_kinds()[other].width};
  std::vector<uint8_t> bytes = others[other];
  bytes.insert(bytes.end(), file.begin(), file.end());
  const int64_t positions[] = {0, static_cast<int64_t>(others[other].size())};
  const int64_t sizes[] = {positions[1], static_cast<int64_t>(file.size())};
  const int64_t heights[] = {other_image.height, image.height};
  const int64_t widths[] = {other_image.width, image.width}, none[] = {0, 0};
  const uint8_t jpegs[] = {1, 1};
  const FastimaeColumns columns{bytes.data(), 2, positions, sizes, heights,
                                widths,       jpegs, none,      none,  3,
                                1};
  // Windows of the output's size, which resizing leaves unchanged.
  const Size size{1 + control.below(image.height), 1 + control.below(image.width)};
  const int32_t of_other[4] = {0, 0, 1, 1};
  int32_t windows[2][4];
  for (auto& window : windows) {
    window[0] = control.below(image.height - size.height + 1);
    window[1] = control.below(image.width - size.width + 1);
    window[2] = size.height;
    window[3] = size.width;
  }
  const auto engine = [&] {
    FastimaeEngine* made = fastimae_engine_new(&columns, size.height, size.width, 3, kMaxPixels, 0);
    if (!made) fail("no engine");
    return made;
  };
  FastimaeEngine* first = engine();
  const Shown alone = show(first, size, 1, windows[0]);
  FastimaeEngine* second = engine();
  show(second, size, 0, of_other);
  const Shown elsewhere = show(second, size, 1, windows[1]);
  const Shown after_other = show(second, size, 1, windows[0]);
  show(first, size, 0, of_other);
  const Shown again = show(first, size, 1, windows[0]);
  fastimae_engine_free(first);
  fastimae_engine_free(second);
  if (!(alone == after_other)) fail("a sample depends on what was decoded before it");
  if (!(alone == again)) fail("a sample depends on whether it was decoded before");
  if ((alone.status == 0) != (elsewhere.status == 0) && alone.status != kUnsupported &&
      elsewhere.status != kUnsupported)
    fail("whether a sample is bad depends on the window");
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  if (size <= kControlBytes + 16) return 0;
  // In a separate allocation, so that reading past the end is noticed.
  const std::vector<uint8_t> file(data + kControlBytes, data + size);
  Control control{data};
  switch (control.byte() % 4) {
    case 0: compare(file.data(), file.size(), control); break;
    case 1: run_engine(file, control); break;
    case 2: compare_orders(file, control); break;
    case 3: run_bands(file, control); break;
  }
  return 0;
}
