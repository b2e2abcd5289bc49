// Fuzzer for systems without libFuzzer: blind mutation of JPEG files made here, without coverage.
//
//   standalone --seconds N [--seed S]   runs for N seconds; a crashing input is in ./crash-input
//   standalone --write FOLDER           writes the initial inputs, for libFuzzer and AFL++
//   standalone FILE...                  runs each file once
#include <chrono>
#include <csignal>
#include <cstring>
#include <fstream>
#include <iterator>
#include <string>

#include <fcntl.h>
#include <unistd.h>

#include "seeds.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size);
extern "C" __attribute__((weak)) void __sanitizer_set_death_callback(void (*callback)());

namespace {

using Bytes = std::vector<uint8_t>;
using Random = std::mt19937_64;

constexpr int kControlBytes = 24;
Bytes present;  // the current input

void keep_input() {
  const int file = open("crash-input", O_WRONLY | O_CREAT | O_TRUNC, 0644);
  if (file >= 0 && write(file, present.data(), present.size()) > 0) close(file);
}

void on_signal(int number) {
  keep_input();
  std::signal(number, SIG_DFL);
  std::raise(number);
}

Bytes control_bytes(Random& random) {
  Bytes bytes(kControlBytes);
  for (uint8_t& byte : bytes) byte = random();
  return bytes;
}

std::vector<Bytes> seeds() {
  std::vector<Bytes> files;
  for (const SeedKind& kind : seed_kinds())
    for (unsigned seed = 0; seed < 2; ++seed) files.push_back(make_jpeg(kind, seed));
  return files;
}

// A small change, mostly in the entropy-coded data, which is most of a file.
void mutate(Bytes* file, const std::vector<Bytes>& files, Random& random) {
  const auto below = [&](size_t count) { return static_cast<size_t>(random() % count); };
  if (file->size() < 8) return;
  const size_t at = below(3) ? below(file->size()) : below(std::min<size_t>(file->size(), 700));
  const size_t length = std::min(1 + below(16), file->size() - at);
  static const uint8_t kMarkers[] = {0xC0, 0xC2, 0xC4, 0xD0, 0xD7, 0xD9,
                                     0xDA, 0xDB, 0xDD, 0x00, 0xFF};
  switch (below(9)) {
    case 0: case 1: case 2:
      (*file)[at] ^= 1 << below(8);
      break;
    case 3:
      (*file)[at] = random();
      break;
    case 4:
      file->erase(file->begin() + at, file->begin() + at + length);
      break;
    case 5: {
      const Bytes piece(file->begin() + at, file->begin() + at + length);
      file->insert(file->begin() + below(file->size()), piece.begin(), piece.end());
      break;
    }
    case 6:
      (*file)[at] = 0xFF;
      if (at + 1 < file->size()) (*file)[at + 1] = kMarkers[below(sizeof kMarkers)];
      break;
    case 7:
      if (!below(4)) file->resize(at);
      break;
    case 8: {
      const Bytes& other = files[below(files.size())];
      const size_t from = std::min(at, other.size());
      file->resize(at);
      file->insert(file->end(), other.begin() + from, other.end());
      break;
    }
  }
}

int fuzz(double seconds, uint64_t seed) {
  Random random(seed);
  const std::vector<Bytes> files = seeds();
  const auto start = std::chrono::steady_clock::now();
  const auto elapsed = [&] {
    return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  };
  size_t runs = 0;
  for (; elapsed() < seconds; ++runs) {
    Bytes file = files[random() % files.size()];
    const size_t changes = random() % 4;  // possibly none: unchanged files count too
    for (size_t i = 0; i < changes; ++i) mutate(&file, files, random);
    present = control_bytes(random);
    present.insert(present.end(), file.begin(), file.end());
    alarm(20);  // so that a hang is found
    LLVMFuzzerTestOneInput(present.data(), present.size());
    alarm(0);
  }
  std::printf("%zu runs in %.0f s, seed %llu: nothing found\n", runs, elapsed(),
              static_cast<unsigned long long>(seed));
  return 0;
}

int write_seeds(const std::string& folder) {
  Random random(1);
  int number = 0;
  for (const Bytes& file : seeds())
    for (int i = 0; i < 4; ++i) {
      std::ofstream out(folder + "/seed" + std::to_string(number++), std::ios::binary);
      for (const Bytes& bytes : {control_bytes(random), file})
        out.write(reinterpret_cast<const char*>(bytes.data()), bytes.size());
    }
  return 0;
}

}  // namespace

int main(int argc, char** argv) {
  for (const int number : {SIGABRT, SIGALRM}) std::signal(number, on_signal);
  if (__sanitizer_set_death_callback) __sanitizer_set_death_callback(keep_input);
  else for (const int number : {SIGSEGV, SIGFPE, SIGILL, SIGBUS}) std::signal(number, on_signal);
  double seconds = 10;
  uint64_t seed = std::random_device{}();
  bool files = false;
  for (int i = 1; i < argc; ++i) {
    if (!std::strcmp(argv[i], "--write") && i + 1 < argc) return write_seeds(argv[i + 1]);
    if (!std::strcmp(argv[i], "--seconds") && i + 1 < argc) {
      seconds = std::atof(argv[++i]);
    } else if (!std::strcmp(argv[i], "--seed") && i + 1 < argc) {
      seed = std::strtoull(argv[++i], nullptr, 10);
    } else {
      std::ifstream in(argv[i], std::ios::binary);
      present.assign(std::istreambuf_iterator<char>(in), {});
      LLVMFuzzerTestOneInput(present.data(), present.size());
      files = true;
    }
  }
  return files ? 0 : fuzz(seconds, seed);
}
