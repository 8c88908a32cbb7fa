// Threads that step sequences: jobs in, logits out.
#pragma once

#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <deque>
#include <memory>
#include <mutex>
#include <thread>
#include <unordered_map>
#include <vector>

#include "lanes.h"
#include "task.h"

namespace lstmserve {

// How a sequence ended; `logits` where it is done. `started`: seconds of the monotonic clock.
struct Result {
  std::uint64_t ticket;
  Ending ending;
  double started;
  std::vector<float> logits;
};

// Each thread has lanes of its own and steps them without a lock; it takes the lock to fill free lanes when there is
// something to fill them with. Every started sequence has exactly one Result.
class Engine {
 public:
  // `lanes`: of each thread, for each direction of each layer. A byte is written to `bell` when there are results
  // where there were none. Throws std::invalid_argument.
  Engine(int threads, int lanes, int bell);
  ~Engine();
  Engine(const Engine&) = delete;

  // The ticket of the sequence. Throws std::invalid_argument for tokens that the model does not have, or none.
  std::uint64_t start(std::shared_ptr<const Model> model, std::vector<std::int32_t> tokens, double deadline);
  // Its lanes are free after a bounded number of steps; nothing happens when it has ended.
  void cancel(std::uint64_t ticket);
  std::vector<Result> collect();
  // Ends the threads after the step that each is in.
  void close();

 private:
  using Lock = std::unique_lock<std::mutex>;
  using Groups = std::vector<std::unique_ptr<Lanes>>;

  void work(int thread);
  void quantum(Lanes& lanes, Groups& groups, int thread);
  bool wait(Groups& groups, int thread);
  void fill(Groups& groups, int thread, std::vector<Job>& failed);
  bool place(const Job& job, Groups& groups);
  std::size_t choose(const Groups& groups, int thread) const;
  bool has_room(const Job& job, const Groups& groups) const;
  void leave(std::vector<Job>& jobs);
  void ended(const Job& job);
  void advance(const std::shared_ptr<Task>& task);
  void enqueue(const std::shared_ptr<Task>& task, bool ahead);
  void report(Task& task, std::vector<float> logits);

  const int threads_, lanes_, bell_;
  std::mutex mutex_;  // guards what follows
  std::condition_variable changed_;
  std::deque<Job> waiting_;
  std::unordered_map<std::uint64_t, std::shared_ptr<Task>> tasks_;
  std::uint64_t tickets_ = 0;
  bool closing_ = false;
  std::atomic<int> queued_{0};  // the size of `waiting_`, to be read without the lock
  std::atomic<int> live_{0};    // lanes in use, of all threads
  std::mutex results_mutex_;
  std::vector<Result> results_;
  std::vector<std::thread> workers_;
};

}  // namespace lstmserve
