// Threads that turn samples into batches of pixels.
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
  const int64_t* samples;    // [N], indices of the data set
  const Window* windows;     // [N]
  const uint8_t* flips;      // [N]
  uint8_t* out;              // [N, height, width, channels]
  int32_t* status;           // [N], a Status each
  char* problems;            // [N, kProblemBytes], C strings, written where status is not kOk
};

constexpr int kProblemBytes = 96;

// A batch under way.
class Job {
 public:
  explicit Job(const Rows& rows);

 private:
  friend class Engine;
  const Rows rows_;
  // Rows of one sample are one task, as they share the decoding. Task t is order_[begin..end).
  std::vector<int64_t> order_;
  std::vector<size_t> begins_;
  size_t next_ = 0;       // the task to be begun next
  size_t unfinished_;     // tasks
};

// Jobs are done in the order they come; each thread takes the next task of the oldest job, so
// that none is idle while there is work, however unequal the images.
class Engine {
 public:
  // threads: 0 means that `submit` does the work itself, and is not for two threads at a time.
  // Throws std::bad_alloc, or std::system_error if so many threads cannot be had.
  Engine(const Columns& columns, const Output& output, int threads);
  // Ends the threads when their present images are done; jobs not finished never are.
  ~Engine();
  Engine(const Engine&) = delete;
  Engine& operator=(const Engine&) = delete;

  std::shared_ptr<Job> submit(const Rows& rows);
  // Returns whether the job is done, at the latest after so many milliseconds.
  bool wait(Job& job, int milliseconds);
  // Drops the tasks not begun and returns when the others are done: `rows` may go.
  void cancel(Job& job);
  StageTimes times();

 private:
  void stop();
  void run(Worker& worker);
  void work_off(Worker& worker, Job& job, size_t task);

  Dataset dataset_;
  const Output output_;
  std::mutex mutex_;  // guards all below, and the mutable part of jobs
  std::condition_variable work_, done_;
  std::deque<std::shared_ptr<Job>> jobs_;  // that have tasks to begin
  bool stopping_ = false;
  std::vector<std::unique_ptr<Worker>> workers_;
  std::vector<std::thread> threads_;
};

}  // namespace fastimae
