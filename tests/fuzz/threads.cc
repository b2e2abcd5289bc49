// Race test of the thread pool: several callers submit, wait, give up and close at any time.
//
// For ThreadSanitizer, which notices missing synchronisation; also checks every finished job.
//
//   threads [SECONDS]
#include <chrono>
#include <cstring>
#include <thread>

#include "api.h"
#include "seeds.h"

namespace {

constexpr int kSide = 24, kSamples = 10, kVariants = 3;
constexpr size_t kBytes = size_t{kSide} * kSide * 3;
constexpr int64_t kMaxPixels = 1 << 20;

// A file in memory with intact and damaged samples, without trailers: workers share row starts.
struct File {
  std::vector<uint8_t> bytes;
  std::vector<int64_t> positions, sizes, heights, widths, no_trailers;
  std::vector<uint8_t> is_jpeg;

  File() {
    for (int i = 0; i < kSamples; ++i) {
      const SeedKind& kind = seed_kinds()[i];
      std::vector<uint8_t> jpeg = make_jpeg(kind, i);
      if (i == 3) jpeg.resize(jpeg.size() / 2);
      positions.push_back(bytes.size());
      sizes.push_back(jpeg.size());
      heights.push_back(kind.height);
      widths.push_back(kind.width);
      is_jpeg.push_back(1);
      bytes.insert(bytes.end(), jpeg.begin(), jpeg.end());
    }
    no_trailers.resize(kSamples);
  }

  FastimaeEngine* engine(int threads) const {
    const FastimaeColumns columns{bytes.data(),       kSamples,          positions.data(),
                                  sizes.data(),       heights.data(),    widths.data(),
                                  is_jpeg.data(),     no_trailers.data(), no_trailers.data(),
                                  3,                  1};
    return fastimae_engine_new(&columns, kSide, kSide, 3, kMaxPixels, threads);
  }
};

// The arrays of a job.
struct Work {
  std::vector<int64_t> samples;
  std::vector<int32_t> windows, status;
  std::vector<uint8_t> flips, out;
  std::vector<char> problems;
  std::vector<int> variants;

  void add(const File& file, int sample, int variant) {
    const int height = static_cast<int>(file.heights[sample]);
    const int width = static_cast<int>(file.widths[sample]);
    const int top = height * variant / 4, left = width * variant / 5;
    samples.push_back(sample);
    windows.insert(windows.end(), {top, left, height - top, (width - left + 1) / 2});
    flips.push_back(variant % 2);
    variants.push_back(variant);
  }

  FastimaeJob* submit(FastimaeEngine* engine) {
    const size_t count = samples.size();
    status.resize(count);
    out.resize(count * kBytes);
    problems.resize(count * fastimae_problem_bytes());
    const FastimaeRows rows{static_cast<int64_t>(count), samples.data(), windows.data(),
                            flips.data(), out.data(), status.data(), problems.data()};
    return fastimae_submit(engine, &rows);
  }
};

void require(bool holds, const char* what) {
  if (holds) return;
  std::fprintf(stderr, "threads: %s\n", what);
  std::abort();
}

// Every sample in every variant, decoded by the calling thread, one job each.
struct Expected {
  Work works[kSamples][kVariants];

  explicit Expected(const File& file) {
    FastimaeEngine* engine = file.engine(0);
    for (int sample = 0; sample < kSamples; ++sample)
      for (int variant = 0; variant < kVariants; ++variant) {
        Work& work = works[sample][variant];
        work.add(file, sample, variant);
        fastimae_job_free(engine, work.submit(engine));
      }
    fastimae_engine_free(engine);
  }

  void check(const Work& work) const {
    for (size_t row = 0; row < work.samples.size(); ++row) {
      const Work& other = works[work.samples[row]][work.variants[row]];
      // A job decodes a sample once for all its rows, so it may see damage that one window hides.
      if (work.samples[row] == 3) continue;
      require(work.status[row] == other.status[0], "another status than alone");
      if (work.status[row] == 0)
        require(!std::memcmp(work.out.data() + row * kBytes, other.out.data(), kBytes),
                "other pixels than alone");
    }
  }
};

// Keeps up to three jobs running; waits for some, gives up others, in any order.
void use(FastimaeEngine* engine, const File& file, const Expected& expected, std::mt19937* random,
         int jobs) {
  struct UnderWay {
    Work work;
    FastimaeJob* job;
  };
  std::vector<UnderWay> under_way;
  uint64_t times[5];
  for (int i = 0; i < jobs || !under_way.empty(); ++i) {
    if (i < jobs) {
      Work work;
      for (int rows = (*random)() % 12; rows > 0; --rows)
        work.add(file, (*random)() % kSamples, (*random)() % kVariants);
      FastimaeJob* job = work.submit(engine);
      require(job, "no memory for a job");
      under_way.push_back({std::move(work), job});  // moving keeps the arrays where they are
    }
    if (i < jobs && under_way.size() < 3) continue;
    const size_t which = (*random)() % under_way.size();
    UnderWay chosen = std::move(under_way[which]);
    under_way.erase(under_way.begin() + which);
    const int milliseconds = (*random)() % 4 ? 60000 : 0;
    const bool done = fastimae_wait(engine, chosen.job, milliseconds);
    require(done || milliseconds == 0, "a job is never done");
    if (done) expected.check(chosen.work);
    fastimae_job_free(engine, chosen.job);
    fastimae_stage_times(engine, times);
  }
}

}  // namespace

int main(int argc, char** argv) {
  const double seconds = argc > 1 ? std::atof(argv[1]) : 10;
  const File file;
  const Expected expected(file);
  const auto start = std::chrono::steady_clock::now();
  const auto is_over = [&] {
    const std::chrono::duration<double> elapsed = std::chrono::steady_clock::now() - start;
    return elapsed.count() > seconds;
  };
  // Each caller repeatedly makes its own engine, and all callers share another one.
  FastimaeEngine* shared = file.engine(3);
  const auto caller = [&](unsigned seed) {
    std::mt19937 random(seed);
    do {
      FastimaeEngine* own = file.engine(1 + random() % 3);
      require(own, "no engine");
      use(own, file, expected, &random, random() % 6);
      use(shared, file, expected, &random, random() % 6);
      fastimae_engine_free(own);
    } while (!is_over());
  };
  std::thread one(caller, 1), two(caller, 2);
  one.join();
  two.join();
  fastimae_engine_free(shared);
  std::puts("nothing found");
}
