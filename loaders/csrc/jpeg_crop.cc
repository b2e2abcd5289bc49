#include "jpeg_crop.h"

#include <algorithm>
#include <csetjmp>
#include <cstring>

#include "entropy.h"
#include "jpeg_errors.h"
#include "jpeg_tables.h"
#include "pixel_buffer.h"

namespace fastimae {
namespace {

// Chroma upsampling treats the crop's sides as the image's, which changes this many columns.
constexpr int kColumnMargin = 2;
// It reads one row of chroma, two of pixels, above and below.
constexpr int kRowMargin = 2;
// A progressive file may repeat its scans without end.
constexpr int kMaxScans = 200;
constexpr int kRowsAtOnce = 16;

constexpr char kUntidy[] = "there is something between its segments";
constexpr char kNoTables[] = "it has no tables of its own";
constexpr char kNotAllScans[] = "its last scans are missing";

// Checks each scan before it is decoded, and counts them.
struct Progress {
  jpeg_progress_mgr base;  // must be the first
  const char* refusal;     // why the file is left to Pillow, or nullptr
};

void on_progress(j_common_ptr info) {
  auto* decompress = reinterpret_cast<j_decompress_ptr>(info);
  auto* errors = reinterpret_cast<JpegErrors*>(info->err);
  if (decompress->input_scan_number > kMaxScans) {
    std::snprintf(errors->message, sizeof errors->message, "more than %d scans", kMaxScans);
    errors->damaged = true;
  } else if (!has_own_huffman_tables(*decompress)) {
    reinterpret_cast<Progress*>(info->progress)->refusal = kNoTables;
  } else {
    return;
  }
  std::longjmp(errors->back, 1);
}

}  // namespace

std::string too_many(int64_t pixels, int64_t limit) {
  return std::to_string(pixels) + " pixels, over --max_pixels " + std::to_string(limit);
}

struct JpegDecoder::Impl {
  Impl(bool own_entropy, int64_t max_pixels) : own_entropy(own_entropy), max_pixels(max_pixels) {
    info.err = errors.manager();
    if (setjmp(errors.back)) throw std::bad_alloc();
    jpeg_create_decompress(&info);
    forget_tables(&info);
    progress.base.progress_monitor = on_progress;
    info.progress = &progress.base;
  }

  ~Impl() { jpeg_destroy_decompress(&info); }

  Status fail(Status status, const std::string& why) {
    problem = why;
    return status;
  }

  Status abandon(Status status) {
    jpeg_abort_decompress(&info);
    return status;
  }

  bool has_size(int height, int width) const {
    return static_cast<int>(info.image_height) == height &&
           static_cast<int>(info.image_width) == width;
  }

  std::string dimensions() const {
    return std::to_string(info.image_height) + " x " + std::to_string(info.image_width);
  }

  // libjpeg's errors jump to `errors.back`, so these must be called after a setjmp.
  Status read_header(const uint8_t* data, size_t size);
  // Starts decoding, and sets `progress.refusal` if the file is to be left to Pillow. Returns false
  // if the result would depend on the previous file or on libjpeg's version; true if Pillow may
  // refuse the file, so that the caller can still look for damage.
  bool begin();
  // starts: nullptr to leave the entropy decoding to libjpeg.
  void start(const JpegRequest& request, std::vector<RowStart>* starts);
  void read_rows(int count);

  Status finish();
  Status decode(const JpegRequest& request, std::vector<RowStart>* starts, View* view);

  const bool own_entropy;
  const int64_t max_pixels;
  jpeg_decompress_struct info{};
  Progress progress{};
  JpegErrors errors{};
  EntropyDecoder entropy;
  bool attached = false;
  PixelBuffer pixels;
  int first_column = 0;  // of the image, in the buffer
  std::string problem;
};

Status JpegDecoder::Impl::read_header(const uint8_t* data, size_t size) {
  problem.clear();
  errors.start(data, size);
  progress.refusal = nullptr;
  attached = false;
  forget_tables(&info);
  jpeg_mem_src(&info, const_cast<uint8_t*>(data), size);
  jpeg_read_header(&info, TRUE);
  const int64_t count = int64_t{info.image_height} * info.image_width;
  if (count > max_pixels) return fail(Status::kDamaged, too_many(count, max_pixels));
  switch (info.jpeg_color_space) {
    case JCS_GRAYSCALE:
      info.out_color_space = JCS_GRAYSCALE;
      break;
    case JCS_YCbCr:
    case JCS_RGB:
      info.out_color_space = JCS_RGB;
      break;
    default:
      return fail(Status::kUnsupported, "its colours are neither gray nor YCbCr nor RGB");
  }
  info.dct_method = JDCT_ISLOW;
  info.do_fancy_upsampling = TRUE;
  return Status::kOk;
}

bool JpegDecoder::Impl::begin() {
  if (!has_own_huffman_tables(info)) {
    progress.refusal = kNoTables;
    return false;
  }
  jpeg_start_decompress(&info);
  if (!has_own_quantisation_tables(info)) progress.refusal = kNoTables;
  if (!has_all_scans(info)) progress.refusal = kNotAllScans;
  if (progress.refusal) return false;
  if (errors.untidy) progress.refusal = kUntidy;
  return true;
}

// Skips to the first row of the window.
void JpegDecoder::Impl::start(const JpegRequest& request, std::vector<RowStart>* starts) {
  const Window& window = request.window;
  const int right = std::min(request.width, window.left + window.width + kColumnMargin);
  const int bottom = std::min(request.height, window.top + window.height + kRowMargin);
  JDIMENSION left = std::max(0, window.left - kColumnMargin);
  JDIMENSION width = right - left;
  // The margin was verified for the usual sampling factors; others are rare.
  if (info.max_h_samp_factor > 2 || info.arith_code) {
    left = 0;
    width = request.width;
  }

  if (width < info.output_width) jpeg_crop_scanline(&info, &left, &width);
  first_column = left;
  if (starts) {
    const int mcu_height = info.max_v_samp_factor * DCTSIZE;
    const int mcu_width = info.max_h_samp_factor * DCTSIZE;
    attached = entropy.attach(&info, request.data, request.size,
                              std::max(0, window.top - kRowMargin) / mcu_height,
                              (bottom - 1) / mcu_height, (right - 1) / mcu_width, starts);
  }
  if (window.top > 0) jpeg_skip_scanlines(&info, window.top);
}

void JpegDecoder::Impl::read_rows(int count) {
  pixels.reserve(count, size_t{info.output_width} * info.output_components);
  for (int done = 0; done < count;) {
    JSAMPROW rows[kRowsAtOnce];
    const int wanted = std::min(kRowsAtOnce, count - done);
    for (int i = 0; i < wanted; ++i) rows[i] = pixels.row(done + i);
    done += jpeg_read_scanlines(&info, rows, wanted);
  }
}

Status JpegDecoder::Impl::finish() {
  jpeg_abort_decompress(&info);
  if (errors.damaged) return fail(Status::kDamaged, errors.message);
  if (progress.refusal) return fail(Status::kUnsupported, progress.refusal);
  if (attached && entropy.problem()) return fail(Status::kDamaged, entropy.problem());
  return Status::kOk;
}

JpegDecoder::JpegDecoder(bool own_entropy, int64_t max_pixels)
    : impl_(std::make_unique<Impl>(own_entropy, max_pixels)) {}

JpegDecoder::~JpegDecoder() = default;

const std::string& JpegDecoder::problem() const { return impl_->problem; }

uint64_t JpegDecoder::entropy_nanoseconds() const {
  return impl_->attached ? impl_->entropy.nanoseconds() : 0;
}

Status JpegDecoder::decode(const JpegRequest& request, std::vector<RowStart>* starts, View* view) {
  Status status = impl_->decode(request, impl_->own_entropy ? starts : nullptr, view);
  if (status == Status::kDamaged && impl_->attached) {
    starts->clear();  // they may be the cause
    status = impl_->decode(request, nullptr, view);
  }
  return status;
}

Status JpegDecoder::Impl::decode(const JpegRequest& request, std::vector<RowStart>* starts,
                                 View* view) {
  if (setjmp(errors.back)) return finish();
  const Status status = read_header(request.data, request.size);
  if (status != Status::kOk) return abandon(status);
  if (!has_size(request.height, request.width))
    return abandon(fail(Status::kMismatch,
                        dimensions() + " pixels, but the file's table says otherwise"));
  if (!begin() || progress.refusal) return finish();
  start(request, starts);
  read_rows(request.window.height);

  const int channels = info.output_components;
  const int skipped = (request.window.left - first_column) * channels;
  *view = View{pixels.row(0) + skipped, request.window.height, request.window.width, channels,
               pixels.stride()};
  return finish();
}

Status JpegDecoder::inspect(const uint8_t* data, size_t size, std::vector<RowStart>* starts) {
  Impl& impl = *impl_;
  starts->clear();
  if (setjmp(impl.errors.back)) return impl.finish();
  Status status = impl.read_header(data, size);
  if (status != Status::kOk) return impl.abandon(status);
  const int height = impl.info.image_height, width = impl.info.image_width;
  if (!impl.begin()) return impl.finish();
  impl.pixels.reserve(1, size_t{impl.info.output_width} * impl.info.output_components);
  JSAMPROW row = impl.pixels.row(0);
  while (impl.info.output_scanline < impl.info.output_height)
    jpeg_read_scanlines(&impl.info, &row, 1);
  jpeg_finish_decompress(&impl.info);  // reads the end marker
  status = impl.finish();
  if (status != Status::kOk || !impl.own_entropy) return status;

  // Our decoder passes through all rows to reach the last pixel.
  View view;
  const JpegRequest last{data, size, height, width, Window{height - 1, width - 1, 1, 1}};
  return decode(last, starts, &view);
}

}  // namespace fastimae
