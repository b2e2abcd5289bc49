// The engine: threads that decode samples into batches of pixels.
#pragma once

#include <condition_variable>
#include <cstdint>
#include <deque>
#include <memory>
#include <mutex>
#include <thread>
#include <vector>

#include "dataset.h"
#include "image.h"
#include "worker.h"

namespace fastimae {

// One batch: N rows, all arrays owned by the caller until the job is done.
struct Rows {
  int64_t count;
  const int64_t* samples;    // [N], indices into the data set
  const Window* windows;     // [N]
  const uint8_t* flips;      // [N]
  uint8_t* out;              // [N, height, width, channels]
  int32_t* status;           // [N], a Status each
  char* problems;            // [N, kProblemBytes], C strings, set if status is not kOk
};

constexpr int kProblemBytes = 96;

// A batch in progress.
class Job {
 public:
  explicit Job(const Rows& rows);

 private:
  friend class Engine;
  const Rows rows_;
  // All rows of a sample form one task, as they share the decoding. Task t is order_[begin..end).
  std::vector<int64_t> order_;
  std::vector<size_t> begins_;
  size_t next_ = 0;       // the task to start next
  size_t unfinished_;     // tasks
};

// Jobs are processed in order of arrival; each thread takes the next task of the oldest job, so
// none is idle while there is work, however unequal the images.
class Engine {
 public:
  // threads: 0 means that `submit` does the work itself; only one thread at a time may call it.
  // Throws std::bad_alloc, or std::system_error if the threads cannot be started.
  Engine(const Columns& columns, const Output& output, int threads);
  // Ends the threads after their current images; unfinished jobs stay unfinished.
  ~Engine();
  Engine(const Engine&) = delete;
  Engine& operator=(const Engine&) = delete;

  std::shared_ptr<Job> submit(const Rows& rows);
  // Waits at most that many milliseconds; returns whether the job is done.
  bool wait(Job& job, int milliseconds);
  // Drops tasks that have not started and waits for the others; then `rows` may be freed.
  void cancel(Job& job);
  StageTimes times();

 private:
  void stop();
  void run(Worker& worker);
  void run_task(Worker& worker, Job& job, size_t task);

  Dataset dataset_;
  const Output output_;
  std::mutex mutex_;  // guards all below, and the mutable part of jobs
  std::condition_variable work_, done_;
  std::deque<std::shared_ptr<Job>> jobs_;  // those with tasks to start
  bool stopping_ = false;
  std::vector<std::unique_ptr<Worker>> workers_;
  std::vector<std::thread> threads_;
};

}  // namespace fastimae
