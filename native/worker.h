// One thread: its groups of lanes, filled from the queue and stepped in turn.
#pragma once

#include <functional>
#include <memory>
#include <vector>

#include "lanes.h"
#include "queue.h"
#include "task.h"
#include "work.h"

namespace lstmserve {

class Worker {
 public:
  // `number` of `threads`; `lanes`: of each group. `ended` is told of every job that it took, once; what it throws is
  // the thread's failure and no longer the job's.
  Worker(Queue& queue, int number, int threads, int lanes, std::function<void(const Job&)> ended);
  // Until the queue is closed. Whatever is thrown on the way, what it holds then is lost, and it begins anew.
  void run() noexcept;
  // Told to any thread, without a lock.
  const Count& count() const { return count_; }

 private:
  void serve();
  void lose();
  void quantum(Lanes& lanes);
  void fill();
  bool place(const Job& job);
  Queue::Fit fit(const Job& job) const;
  void leave();
  int live() const;

  Queue& queue_;
  const int number_, threads_, lanes_;
  const std::function<void(const Job&)> ended_;
  std::vector<std::unique_ptr<Lanes>> groups_;
  std::vector<Job>
      between_;        // jobs between the queue and a lane, or that have left theirs; reserved for all there can be
  unsigned seen_ = 0;  // pushes to the queue when it was last looked at
  Count count_;
};

}  // namespace lstmserve
