#include "queue.h"

#include <algorithm>
#include <iterator>

namespace lstmserve {

// Lanes below its share from which on a thread takes jobs that are not its own. A few lanes apart cost more than the
// same beside many of their kind, for their weights must be fetched for them alone.
constexpr int kFar = 8;

void Queue::push(const std::shared_ptr<Task>& task, bool ahead) {
  const int directions = task->model->shape.num_directions;
  task->pending = directions;
  const std::lock_guard lock(mutex_);
  for (int direction = 0; direction < directions; ++direction) {
    jobs_.insert(ahead ? jobs_.begin() : jobs_.end(), Job{task, direction});
    changed_.notify_one();
  }
  size_ = static_cast<int>(jobs_.size());
}

std::optional<Job> Queue::take(int live, const std::function<Fit(const Job&)>& fit) {
  const std::lock_guard lock(mutex_);
  const int all = live_ + static_cast<int>(jobs_.size()), share = (all + threads_ - 1) / threads_;
  if (live >= share) return std::nullopt;
  const auto first = [&](Fit wanted) {
    return std::find_if(jobs_.begin(), jobs_.end(), [&](const Job& job) { return fit(job) == wanted; });
  };
  auto chosen = first(Fit::own);
  if (chosen == jobs_.end() && (live == 0 || live + kFar <= share)) chosen = first(Fit::other);
  if (chosen == jobs_.end()) return std::nullopt;
  Job job = std::move(*chosen);
  jobs_.erase(chosen);
  size_ = static_cast<int>(jobs_.size());
  ++live_;
  return job;
}

std::vector<Job> Queue::remove(const Task& task) {
  const std::lock_guard lock(mutex_);
  const auto removed =
      std::stable_partition(jobs_.begin(), jobs_.end(), [&](const Job& job) { return job.task.get() != &task; });
  std::vector<Job> result(std::make_move_iterator(removed), std::make_move_iterator(jobs_.end()));
  jobs_.erase(removed, jobs_.end());
  size_ = static_cast<int>(jobs_.size());
  return result;
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
