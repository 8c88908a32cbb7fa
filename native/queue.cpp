#include "queue.h"

#include <algorithm>
#include <utility>

namespace lstmserve {

void Queue::push(const std::shared_ptr<Task>& task, bool ahead) {
  const int directions = task->model->shape.num_directions;
  task->pending = directions;
  const std::lock_guard lock(mutex_);
  const std::size_t before = jobs_.size();
  try {
    for (int direction = 0; direction < directions; ++direction)
      if (ahead)
        jobs_.push_front({task, direction});
      else
        jobs_.push_back({task, direction});
  } catch (...) {
    while (jobs_.size() > before) ahead ? jobs_.pop_front() : jobs_.pop_back();
    throw;
  }
  ++pushes_;
  for (int direction = 0; direction < directions; ++direction) changed_.notify_one();
}

std::optional<Job> Queue::take(int live, const std::function<Fit(const Job&)>& fit) {
  const std::lock_guard lock(mutex_);
  const int all = live_ + static_cast<int>(jobs_.size()), share = (all + threads_ - 1) / threads_;
  if (live >= share) return std::nullopt;
  auto chosen = jobs_.end();
  for (auto job = jobs_.begin(); job != jobs_.end(); ++job) {
    const Fit fits = fit(*job);
    if (fits == Fit::own || (fits == Fit::other && chosen == jobs_.end())) chosen = job;
    if (fits == Fit::own) break;
  }
  if (chosen == jobs_.end()) return std::nullopt;
  Job job = std::move(*chosen);
  jobs_.erase(chosen);
  ++live_;
  return job;
}

std::optional<Job> Queue::remove(const Task& task) {
  const std::lock_guard lock(mutex_);
  const auto found = std::find_if(jobs_.begin(), jobs_.end(), [&](const Job& job) { return job.task.get() == &task; });
  if (found == jobs_.end()) return std::nullopt;
  Job job = std::move(*found);
  jobs_.erase(found);
  return job;
}

bool Queue::wait() {
  std::unique_lock lock(mutex_);
  changed_.wait(lock, [&] { return closed_ || !jobs_.empty(); });
  return !closed_;
}

void Queue::close() {
  {
    const std::lock_guard lock(mutex_);
    closed_ = true;
  }
  changed_.notify_all();
}

}  // namespace lstmserve
