// The jobs that wait for a lane, and the threads' shares of them.
#pragma once

#include <atomic>
#include <condition_variable>
#include <deque>
#include <functional>
#include <memory>
#include <mutex>
#include <optional>

#include "task.h"

namespace lstmserve {

class Queue {
 public:
  // What a job is to a thread: one that it has no lane for, one that it can take, one that is its own.
  enum class Fit { none, other, own };

  explicit Queue(int threads) : threads_(threads) {}

  // The jobs of a task's layer, all or none; what has begun goes `ahead` of what has not. Throws std::bad_alloc.
  void push(const std::shared_ptr<Task>& task, bool ahead);
  // A job for a thread with `live` lanes in use, if that is less than its share of all lanes in use and jobs: the first
  // that is its own, or else the first that it can take. It counts as live until `leave`.
  std::optional<Job> take(int live, const std::function<Fit(const Job&)>& fit);
  void leave(int jobs) { live_ -= jobs; }
  // A job of the task that waits, which does so no longer. Takes no memory.
  std::optional<Job> remove(const Task& task);
  int live() const { return live_; }
  // How often jobs were pushed, told without the lock: a thread that found none to take need not look again until this
  // changes, or it frees a lane.
  unsigned pushes() const { return pushes_.load(std::memory_order_relaxed); }
  // Waits until something waits. False: it is closed.
  bool wait();
  void close();
  bool closed() const { return closed_.load(std::memory_order_relaxed); }

 private:
  const int threads_;
  std::mutex mutex_;  // guards `jobs_`
  std::condition_variable changed_;
  std::deque<Job> jobs_;
  std::atomic<unsigned> pushes_{0};
  std::atomic<int> live_{0};  // lanes in use, of all threads
  std::atomic<bool> closed_{false};
};

}  // namespace lstmserve
