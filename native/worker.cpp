#include "worker.h"

#include <algorithm>
#include <new>
#include <optional>
#include <utility>

#include "clock.h"
#include "fault.h"
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

Worker::Worker(Queue& queue, int number, int threads, int lanes, std::function<void(const Job&)> ended)
    : queue_(queue), number_(number), threads_(threads), lanes_(lanes), ended_(std::move(ended)) {
  between_.reserve(lanes + 1);
}

void Worker::run() noexcept {
  leave_signals();
  give_way();
  flush_denormals();
  while (!queue_.closed()) try {
      serve();
    } catch (...) {
      count_.fail();
      lose();
    }
}

void Worker::serve() {
  while (!queue_.closed()) {
    count_.turn();
    if (!live()) {
      count_.busy(false);
      if (!queue_.wait()) return;
      count_.busy(true);
    }
    fill();
    for (std::size_t n = 0; n < groups_.size(); ++n) quantum(*groups_[n]);
    // models that have gone take their groups with them
    groups_.erase(std::remove_if(groups_.begin(), groups_.end(), [](const auto& lanes) { return lanes->orphaned(); }),
                  groups_.end());
  }
}

// Takes no memory and throws nothing.
void Worker::lose() {
  const auto lost = [&](const Job& job) {
    job.task->end(Ending::lost);
    queue_.leave(1);
    ended_(job);
  };
  for (const Job& job : between_) lost(job);
  between_.clear();
  for (const auto& lanes : groups_)
    while (lanes->rows()) lost(lanes->take());
  groups_.clear();
}

void Worker::quantum(Lanes& lanes) {
  lanes.drop(now(), between_);
  leave();
  for (int n = 0; n < kQuantum && lanes.rows() && !queue_.closed(); ++n) {
    count_.step(lanes.rows());  // before anybody hears of what ends in it
    lanes.step(between_);
    const bool freed = !between_.empty();
    leave();
    if (freed || queue_.pushes() != seen_) fill();
  }
}

// Takes waiting jobs into free lanes.
void Worker::fill() {
  seen_ = queue_.pushes();
  while (std::optional<Job> job = queue_.take(live(), [&](const Job& each) { return fit(each); })) {
    count_.turn();
    between_.push_back(std::move(*job));
    Task& task = *between_.back().task;
    const double time = now();
    task.begin(time);
    if (task.deadline <= time) task.end(Ending::overdue);
    if (task.running() && place(between_.back()))
      between_.pop_back();
    else
      leave();
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
    meet(Point::place, job.task->tokens.data(), job.task->length());
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

// Of jobs that have left their lanes, or get none.
void Worker::leave() {
  while (!between_.empty()) {
    const Job job = std::move(between_.back());
    between_.pop_back();
    queue_.leave(1);
    ended_(job);
  }
}

int Worker::live() const {
  int lanes = 0;
  for (const auto& group : groups_) lanes += group->rows();
  return lanes;
}

}  // namespace lstmserve
