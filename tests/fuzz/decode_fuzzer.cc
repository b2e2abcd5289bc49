// Feeds arbitrary bytes to the decode engine. Finds what sanitizers see, what hangs, and pixels
// that differ between our Huffman decoder and libjpeg's. The Makefile here builds and starts it.
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

using fastimae::RowStart;
using fastimae::Status;

namespace {

constexpr size_t kControlBytes = 24;
constexpr int kMaxSide = 1024;  // larger images are slow and show nothing new
constexpr int64_t kMaxPixels = 1 << 18;

enum Rows { kNone, kTrue, kWrong, kGarbage };

// The bytes that steer, one after the other.
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

// As the first start-of-frame marker tells it, which need not be where libjpeg finds it.
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
    if (control.byte() % 4)  // not far outside of the file
      for (RowStart& row : rows) row.bit %= 8 * size + 100;
  } else if (kind == kWrong && !rows.empty()) {
    RowStart& row = rows[control.below(static_cast<int>(rows.size()))];
    row.bit ^= 1u << (control.byte() % 32);
    row.dc[0] ^= static_cast<int16_t>(control.byte() << 8);
  }
  return rows;
}

// libjpeg-turbo leaves coefficients of its fast path in the block where it meets FF FF 00, which no
// encoder writes: what it shows there is no example.
bool has_doubled_ff(const uint8_t* data, size_t size) {
  const uint8_t doubled[] = {0xFF, 0xFF};
  return std::search(data, data + size, doubled, doubled + 2) != data + size;
}

// What libjpeg alone shows must be the same by our decoder.
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

// What loaders/trailer.py writes behind a sample.
void append_trailer(std::vector<uint8_t>* file, const std::vector<RowStart>& rows) {
  const size_t first = file->size();
  const uint32_t head[] = {0x31544D46, fastimae_crc32(file->data(), first), 3,
                           static_cast<uint32_t>(rows.size())};
  const auto append = [&](const void* bytes, size_t size) {
    const auto* begin = static_cast<const uint8_t*>(bytes);
    file->insert(file->end(), begin, begin + size);
  };
  append(head, sizeof head);
  append(rows.data(), rows.size() * sizeof(RowStart));
  const uint32_t crc = fastimae_crc32(file->data() + first, file->size() - first);
  append(&crc, sizeof crc);
}

// The whole engine, on a file of one sample, JPEG or raw, and perhaps a trailer.
void run_engine(std::vector<uint8_t> file, Control control) {
  const Size image = size_in_header(file.data(), file.size());
  if (image.height < 1 || image.width < 1) return;
  const int flags = control.byte();
  const int64_t raw_size = int64_t{image.height} * image.width * 3;
  const uint8_t is_jpeg = !(flags & 1) || raw_size > static_cast<int64_t>(file.size());
  const int64_t position = 0, height = image.height, width = image.width;
  const int64_t size = is_jpeg ? static_cast<int64_t>(file.size()) : raw_size;
  int64_t trailer = 0, trailer_size = 0;
  if (flags & 2) {
    trailer = size;
    const auto rows = choose_rows(flags & 4 ? kGarbage : kNone, {}, control, file.data(), size);
    file.resize(size);
    append_trailer(&file, rows);
    trailer_size = static_cast<int64_t>(file.size()) - trailer;
    if (flags & 8) file[trailer + control.below(trailer_size)] ^= 1 << (control.byte() % 8);
    if (flags & 16) trailer_size = control.below(static_cast<int>(trailer_size));
  }
  const FastimaeColumns columns{file.data(), 1,        &position, &size,        &height,
                                &width,      &is_jpeg, &trailer,  &trailer_size};
  const int side = 1 + control.byte() % 48, channels = flags & 32 ? 1 : 3;
  FastimaeEngine* engine =
      fastimae_engine_new(&columns, side, 64 - side, channels, kMaxPixels, /*threads=*/0);
  if (!engine) fail("no engine");

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
  for (int again = 0; again < 2; ++again) {  // the second time rows and checksum are known
    FastimaeJob* job = fastimae_submit(engine, &rows);
    if (!job || !fastimae_wait(engine, job, 0)) fail("a job without threads is not done");
    fastimae_job_free(engine, job);
  }
  fastimae_engine_free(engine);
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  if (size <= kControlBytes + 16) return 0;
  // Memory of its own, so that reading past the end is seen.
  const std::vector<uint8_t> file(data + kControlBytes, data + size);
  Control control{data};
  if (control.byte() % 2) run_engine(file, control);
  else compare(file.data(), file.size(), control);
  return 0;
}
