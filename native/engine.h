// Threads that step sequences: tokens in, logits out.
#pragma once

#include <cstdint>
#include <deque>
#include <memory>
#include <mutex>
#include <thread>
#include <unordered_map>
#include <vector>

#include "queue.h"
#include "task.h"
#include "work.h"

namespace lstmserve {

// How a sequence ended; `logits` where it is done. `started`: seconds of the monotonic clock.
struct Result {
  std::uint64_t ticket;
  Ending ending;
  double started;
  std::vector<float> logits;
};

// Each thread has lanes of its own and steps them without a lock; it takes one to fill free lanes when there is
// something new to fill them with. Until the engine is closed every started sequence has exactly one Result.
class Engine {
 public:
  // `lanes`: of each thread, for each direction of each layer. A byte is written to `bell` when there are results
  // where there were none; it may be closed once the engine is made. Throws std::invalid_argument, std::system_error
  // where so many threads are not to be had.
  Engine(int threads, int lanes, int bell);
  ~Engine();
  Engine(const Engine&) = delete;

  // The ticket of the sequence. Throws std::invalid_argument for tokens that the model does not have, or none.
  std::uint64_t start(std::shared_ptr<const Model> model, std::vector<std::int32_t> tokens, double deadline);
  // Its lanes are free after a bounded number of steps; nothing happens when it has ended.
  void cancel(std::uint64_t ticket);
  std::vector<Result> collect();
  // Of all threads since the start, without a lock: what had ended when it was collected is in it.
  Work work() const;
  // Ends the threads after the step that each is in. What had not ended never will.
  void close();

 private:
  void ended(const Job& job);
  void drop_if_ended(const Task& task);
  void advance(const std::shared_ptr<Task>& task);
  void report(Task& task, std::vector<float> logits);

  int bell_;
  Queue queue_;
  std::deque<Count> counts_;  // of each thread
  std::mutex mutex_;          // guards what follows
  std::unordered_map<std::uint64_t, std::shared_ptr<Task>> tasks_;
  std::uint64_t tickets_ = 0;
  std::vector<Result> results_;
  std::vector<std::thread> threads_;
};

}  // namespace lstmserve
