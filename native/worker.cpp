#include "worker.h"

#include <algorithm>
#include <new>
#include <optional>
#include <utility>

#include "clock.h"
#include "priority.h"

#if defined(__SSE__)
#include <xmmintrin.h>
#endif

namespace lstmserve {

namespace {

// Steps of one group of lanes before the next group's turn: its weights are fetched from beyond the core's own cache
// once in so many steps. Also the bound on the steps after which a cancelled sequence is dropped.
constexpr int kQuantum = 8;

// Numbers below 1e-38 count as zero: on many processors they cost a hundred times as much.
void flush_denormals() {
#if defined(__SSE__)
  constexpr unsigned flush_to_zero = 0x8000, denormals_are_zero = 0x40;
  _mm_setcsr(_mm_getcsr() | flush_to_zero | denormals_are_zero);
#endif
}

}  // namespace

Worker::Worker(Queue& queue, Count& count, int number, int threads, int lanes, std::function<void(const Job&)> ended)
    : queue_(queue), count_(count), number_(number), threads_(threads), lanes_(lanes), ended_(std::move(ended)) {}

void Worker::run() {
  leave_signals();
  give_way();
  flush_denormals();
  while (!queue_.closed()) {
    fill();
    if (!live() && !queue_.wait()) return;
    for (std::size_t n = 0; n < groups_.size(); ++n) quantum(*groups_[n]);
    // models that have gone take their groups with them
    groups_.erase(std::remove_if(groups_.begin(), groups_.end(), [](const auto& lanes) { return lanes->orphaned(); }),
                  groups_.end());
  }
}

void Worker::quantum(Lanes& lanes) {
  std::vector<Job> jobs;
  lanes.drop(now(), jobs);
  leave(jobs);
  for (int n = 0; n < kQuantum && lanes.rows() && !queue_.closed(); ++n) {
    count_.step(lanes.rows());  // before anybody hears of what ends in it
    lanes.step(jobs);
    const bool freed = !jobs.empty();
    leave(jobs);
    if (freed || queue_.pushes() != seen_) fill();
  }
}

// Takes waiting jobs into free lanes.
void Worker::fill() {
  seen_ = queue_.pushes();
  while (const std::optional<Job> job = queue_.take(live(), [&](const Job& each) { return fit(each); })) {
    Task& task = *job->task;
    const double time = now();
    task.begin(time);
    if (task.deadline <= time) task.end(Ending::overdue);
    if (task.running() && place(*job)) continue;
    queue_.leave(1);
    ended_(*job);
  }
}

// A thread has directions of its own, so that their weights stay in its cache.
Queue::Fit Worker::fit(const Job& job) const {
  for (const auto& lanes : groups_)
    if (lanes->serves(job) && lanes->full()) return Queue::Fit::none;
  const Shape& shape = job.task->model->shape;
  const int number = job.task->layer * shape.num_directions + job.direction;
  const int ring = std::min(shape.num_layers * shape.num_directions, threads_);
  return number % ring == number_ % ring ? Queue::Fit::own : Queue::Fit::other;
}

bool Worker::place(const Job& job) {
  try {
    auto found = std::find_if(groups_.begin(), groups_.end(), [&](const auto& lanes) { return lanes->serves(job); });
    if (found == groups_.end()) {
      groups_.push_back(std::make_unique<Lanes>(job.task->model, job.task->layer, job.direction, lanes_));
      found = groups_.end() - 1;
    }
    (*found)->add(job);
    return true;
  } catch (const std::bad_alloc&) {
    job.task->end(Ending::no_memory);
    return false;
  }
}

// Of jobs that have left their lanes.
void Worker::leave(std::vector<Job>& jobs) {
  queue_.leave(static_cast<int>(jobs.size()));
  for (const Job& job : jobs) ended_(job);
  jobs.clear();
}

int Worker::live() const {
  int lanes = 0;
  for (const auto& group : groups_) lanes += group->rows();
  return lanes;
}

}  // namespace lstmserve
