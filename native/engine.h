// Threads that step sequences: tokens in, logits out.
#pragma once

#include <condition_variable>
#include <cstdint>
#include <deque>
#include <list>
#include <memory>
#include <mutex>
#include <thread>
#include <unordered_map>
#include <vector>

#include "queue.h"
#include "task.h"
#include "work.h"
#include "worker.h"

namespace lstmserve {

// Each thread has lanes of its own and steps them without a lock; it takes one to fill free lanes when there is
// something new to fill them with. Until the engine is closed every started sequence has exactly one Result. The
// threads share the engine, so that one which is stuck never finds it gone.
class Engine {
 public:
  // `lanes`: of each thread, for each direction of each layer. A byte is written to `bell` when there are results
  // where there were none; it may be closed once the engine is made. Throws std::invalid_argument, std::system_error
  // where so many threads are not to be had. To be closed.
  static std::shared_ptr<Engine> make(int threads, int lanes, int bell);
  Engine(int threads, int lanes, int bell);  // without threads
  ~Engine();
  Engine(const Engine&) = delete;

  // The ticket of the sequence. Throws std::invalid_argument for tokens that the model does not have, or none.
  std::uint64_t start(std::shared_ptr<const Model> model, std::vector<std::int32_t> tokens, double deadline);
  // Its lanes are free after a bounded number of steps; nothing happens when it has ended.
  void cancel(std::uint64_t ticket);
  std::list<Result> collect();
  // Of all threads since the start, without a lock: what had ended when it was collected is in it.
  Work work() const;
  // Of each thread, without a lock.
  std::vector<Pulse> pulses() const;
  // Threads that failed and began anew; what each held then has ended as lost.
  std::uint64_t failures() const;
  // Ends the threads after the step that each is in. What had not ended never will. False: after kCloseSeconds one was
  // still in its step, and is left to itself.
  bool close();

  // Jobs that have lanes, and sequences that have not ended.
  int live() const { return queue_.live(); }
  std::size_t held();

 private:
  void ended(const Job& job);
  void drop_if_ended(const Task& task);
  void advance(const std::shared_ptr<Task>& task);
  void report(Task& task);

  const int bell_;
  Queue queue_;
  std::deque<Worker> workers_;
  std::mutex mutex_;  // guards what follows
  std::unordered_map<std::uint64_t, std::shared_ptr<Task>> tasks_;
  std::uint64_t tickets_ = 0;
  std::list<Result> results_;
  std::vector<std::thread> threads_;
  int running_ = 0;  // threads
  std::condition_variable left_;
};

}  // namespace lstmserve
