#include "engine.h"

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <new>
#include <numeric>

namespace fastimae {

Job::Job(const Rows& rows) : rows_(rows), order_(rows.count) {
  std::iota(order_.begin(), order_.end(), int64_t{0});
  const auto by_sample = [&](int64_t a, int64_t b) { return rows.samples[a] < rows.samples[b]; };
  std::stable_sort(order_.begin(), order_.end(), by_sample);
  for (size_t i = 0; i < order_.size(); ++i)
    if (i == 0 || rows.samples[order_[i]] != rows.samples[order_[i - 1]]) begins_.push_back(i);
  unfinished_ = begins_.size();
}

Engine::Engine(const Columns& columns, const Output& output, int threads)
    : dataset_(columns), output_(output) {
  for (int i = 0; i < std::max(threads, 1); ++i)
    workers_.push_back(std::make_unique<Worker>(dataset_, output));
  try {
    for (int i = 0; i < threads; ++i) threads_.emplace_back([this, i] { run(*workers_[i]); });
  } catch (...) {
    stop();
    throw;
  }
}

Engine::~Engine() { stop(); }

void Engine::stop() {
  {
    std::lock_guard<std::mutex> hold(mutex_);
    stopping_ = true;
  }
  work_.notify_all();
  for (std::thread& thread : threads_) thread.join();
}

std::shared_ptr<Job> Engine::submit(const Rows& rows) {
  auto job = std::make_shared<Job>(rows);
  if (threads_.empty()) {
    for (size_t task = 0; task < job->begins_.size(); ++task) run_task(*workers_[0], *job, task);
    job->next_ = job->begins_.size();
    job->unfinished_ = 0;
    return job;
  }
  if (job->unfinished_ > 0) {
    std::lock_guard<std::mutex> hold(mutex_);
    jobs_.push_back(job);
  }
  work_.notify_all();
  return job;
}

bool Engine::wait(Job& job, int milliseconds) {
  std::unique_lock<std::mutex> hold(mutex_);
  return done_.wait_for(hold, std::chrono::milliseconds(milliseconds),
                        [&] { return job.unfinished_ == 0; });
}

void Engine::cancel(Job& job) {
  std::unique_lock<std::mutex> hold(mutex_);
  job.unfinished_ -= job.begins_.size() - job.next_;
  job.next_ = job.begins_.size();
  const auto is_it = [&](const std::shared_ptr<Job>& other) { return other.get() == &job; };
  jobs_.erase(std::remove_if(jobs_.begin(), jobs_.end(), is_it), jobs_.end());
  done_.wait(hold, [&] { return job.unfinished_ == 0; });
}

StageTimes Engine::times() {
  StageTimes sum;
  for (const auto& worker : workers_) {
    const StageTimes times = worker->times();
    sum.read += times.read;
    sum.entropy += times.entropy;
    sum.pixels += times.pixels;
    sum.resize += times.resize;
    sum.images += times.images;
  }
  return sum;
}

void Engine::run(Worker& worker) {
  std::unique_lock<std::mutex> hold(mutex_);
  while (true) {
    work_.wait(hold, [&] { return stopping_ || !jobs_.empty(); });
    if (stopping_) return;
    const std::shared_ptr<Job> job = jobs_.front();
    const size_t task = job->next_++;
    if (job->next_ == job->begins_.size()) jobs_.pop_front();
    hold.unlock();
    run_task(worker, *job, task);
    hold.lock();
    if (--job->unfinished_ == 0) done_.notify_all();
  }
}

void Engine::run_task(Worker& worker, Job& job, size_t task) {
  const Rows& rows = job.rows_;
  const size_t begin = job.begins_[task];
  const size_t end = task + 1 < job.begins_.size() ? job.begins_[task + 1] : job.order_.size();
  Status status = Status::kDamaged;
  const char* problem = "not enough memory";
  try {
    std::vector<Crop> crops;
    for (size_t i = begin; i < end; ++i) {
      const int64_t row = job.order_[i];
      crops.push_back({rows.windows[row], rows.flips[row] != 0, rows.out + row * output_.bytes()});
    }
    status = worker.make_crops(rows.samples[job.order_[begin]], crops);
    problem = worker.problem().c_str();
  } catch (const std::bad_alloc&) {
  }
  for (size_t i = begin; i < end; ++i) {
    const int64_t row = job.order_[i];
    rows.status[row] = static_cast<int32_t>(status);
    std::snprintf(rows.problems + row * kProblemBytes, kProblemBytes, "%s", problem);
  }
}

}  // namespace fastimae
