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
  // `number` of `threads`, which writes `count`; `lanes`: of each group. `ended` is told of every job that it took,
  // once.
  Worker(Queue& queue, Count& count, int number, int threads, int lanes, std::function<void(const Job&)> ended);
  // Until the queue is closed.
  void run();

 private:
  void quantum(Lanes& lanes);
  void fill();
  bool place(const Job& job);
  Queue::Fit fit(const Job& job) const;
  void leave(std::vector<Job>& jobs);
  int live() const;

  Queue& queue_;
  Count& count_;
  const int number_, threads_, lanes_;
  const std::function<void(const Job&)> ended_;
  std::vector<std::unique_ptr<Lanes>> groups_;
  unsigned seen_ = 0;  // pushes to the queue when it was last looked at
};

}  // namespace lstmserve
