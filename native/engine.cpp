#include "engine.h"

#include <time.h>
#include <unistd.h>

#include <algorithm>
#include <cmath>
#include <iterator>
#include <stdexcept>
#include <string>

#if defined(__SSE__)
#include <xmmintrin.h>
#endif

namespace lstmserve {

namespace {

// Steps of one group of lanes before the next group's turn: its weights are fetched from beyond the core's own cache
// once in so many steps. Also the bound on the steps after which a cancelled sequence is dropped.
constexpr int kQuantum = 8;

// The clock of Python's time.monotonic().
double now() {
  timespec time;
  clock_gettime(CLOCK_MONOTONIC, &time);
  return static_cast<double>(time.tv_sec) + 1e-9 * static_cast<double>(time.tv_nsec);
}

// Numbers below 1e-38 count as zero: on many processors they cost a hundred times as much.
void flush_denormals() {
#if defined(__SSE__)
  constexpr unsigned flush_to_zero = 0x8000, denormals_are_zero = 0x40;
  _mm_setcsr(_mm_getcsr() | flush_to_zero | denormals_are_zero);
#endif
}

int live_lanes(const std::vector<std::unique_ptr<Lanes>>& groups) {
  int live = 0;
  for (const auto& lanes : groups) live += lanes->rows();
  return live;
}

}  // namespace

Engine::Engine(int threads, int lanes, int bell) : threads_(threads), lanes_(lanes), bell_(bell) {
  if (threads < 1 || lanes < 1) throw std::invalid_argument("threads and lanes must be positive");
  for (int thread = 0; thread < threads; ++thread) workers_.emplace_back(&Engine::work, this, thread);
}

Engine::~Engine() { close(); }

void Engine::close() {
  {
    const Lock lock(mutex_);
    closing_ = true;
  }
  changed_.notify_all();
  for (std::thread& worker : workers_)
    if (worker.joinable()) worker.join();
}

std::uint64_t Engine::start(std::shared_ptr<const Model> model, std::vector<std::int32_t> tokens, double deadline) {
  const Shape& shape = model->shape;
  if (tokens.empty()) throw std::invalid_argument("a sequence must have at least one token");
  for (const std::int32_t token : tokens)
    if (token < 0 || token >= shape.vocab_size)
      throw std::invalid_argument("token id " + std::to_string(token) + " is not from 0 to " +
                                  std::to_string(shape.vocab_size - 1));
  auto task = std::make_shared<Task>();
  task->model = std::move(model);
  task->tokens = std::move(tokens);
  task->deadline = deadline;
  task->features.resize(shape.feature_size());
  if (!task->last_layer()) task->outputs = Buffer(task->length() * task->model->input_bytes(1));
  {
    const Lock lock(mutex_);
    task->ticket = ++tickets_;
    tasks_.emplace(task->ticket, task);
    enqueue(task, false);
  }
  return task->ticket;
}

// With the lock held. What has begun goes `ahead` of what has not.
void Engine::enqueue(const std::shared_ptr<Task>& task, bool ahead) {
  const int directions = task->model->shape.num_directions;
  task->pending = directions;
  for (int direction = 0; direction < directions; ++direction) {
    if (ahead)
      waiting_.push_front({task, direction});
    else
      waiting_.push_back({task, direction});
    changed_.notify_one();
  }
  queued_ = static_cast<int>(waiting_.size());
}

void Engine::cancel(std::uint64_t ticket) {
  std::vector<Job> dropped;
  {
    const Lock lock(mutex_);
    const auto found = tasks_.find(ticket);
    if (found == tasks_.end()) return;
    Task& task = *found->second;
    task.end(Ending::cancelled);
    const auto kept = std::stable_partition(waiting_.begin(), waiting_.end(),
                                            [&](const Job& job) { return job.task.get() != &task; });
    std::move(kept, waiting_.end(), std::back_inserter(dropped));
    waiting_.erase(kept, waiting_.end());
    queued_ = static_cast<int>(waiting_.size());
  }
  for (const Job& job : dropped) ended(job);
}

std::vector<Result> Engine::collect() {
  const Lock lock(results_mutex_);
  return std::exchange(results_, {});
}

void Engine::work(int thread) {
  flush_denormals();
  Groups groups;
  while (wait(groups, thread))
    for (std::size_t n = 0; n < groups.size(); ++n) quantum(*groups[n], groups, thread);
}

// Fills free lanes; while there is nothing to step it waits. False: the engine closes.
bool Engine::wait(Groups& groups, int thread) {
  std::vector<Job> failed;
  {
    Lock lock(mutex_);
    groups.erase(std::remove_if(groups.begin(), groups.end(), [](const auto& lanes) { return lanes->orphaned(); }),
                 groups.end());
    fill(groups, thread, failed);
    while (!closing_ && failed.empty() && !live_lanes(groups)) {
      changed_.wait(lock);
      fill(groups, thread, failed);
    }
    if (closing_) return false;
  }
  for (const Job& job : failed) ended(job);
  return true;
}

void Engine::quantum(Lanes& lanes, Groups& groups, int thread) {
  std::vector<Job> jobs;
  lanes.drop(now(), jobs);
  leave(jobs);
  for (int n = 0; n < kQuantum && lanes.rows(); ++n) {
    lanes.step(jobs);
    leave(jobs);
    if (queued_.load(std::memory_order_relaxed) && !lanes.full()) {
      const Lock lock(mutex_);
      fill(groups, thread, jobs);
    }
    for (const Job& job : jobs) ended(job);
    jobs.clear();
  }
}

// With the lock held: takes waiting jobs into free lanes, up to this thread's share of all.
void Engine::fill(Groups& groups, int thread, std::vector<Job>& failed) {
  int live = live_lanes(groups);
  while (!waiting_.empty()) {
    const int all = live_ + static_cast<int>(waiting_.size()), share = (all + threads_ - 1) / threads_;
    const std::size_t chosen = live < share ? choose(groups, thread) : waiting_.size();
    if (chosen == waiting_.size()) break;
    const Job job = std::move(waiting_[chosen]);
    waiting_.erase(waiting_.begin() + static_cast<std::ptrdiff_t>(chosen));
    const double time = now();
    if (job.task->deadline <= time) job.task->end(Ending::overdue);
    if (!job.task->started) job.task->started = time;
    if (job.task->running() && place(job, groups)) {
      ++live;
      ++live_;
    } else {
      failed.push_back(job);
    }
  }
  queued_ = static_cast<int>(waiting_.size());
}

// The first waiting job for this thread: it prefers a direction that is its own, so that the weights stay in its cache.
std::size_t Engine::choose(const Groups& groups, int thread) const {
  std::size_t any = waiting_.size();
  for (std::size_t n = 0; n < waiting_.size(); ++n) {
    const Job& job = waiting_[n];
    if (!has_room(job, groups)) continue;
    const int number = job.task->layer * job.task->model->shape.num_directions + job.direction;
    const int all = job.task->model->shape.num_layers * job.task->model->shape.num_directions;
    const int ring = std::min(all, threads_);
    if (number % ring == thread % ring) return n;
    any = std::min(any, n);
  }
  return any;
}

bool Engine::has_room(const Job& job, const Groups& groups) const {
  for (const auto& lanes : groups)
    if (lanes->serves(job)) return !lanes->full();
  return true;
}

bool Engine::place(const Job& job, Groups& groups) {
  try {
    auto found = std::find_if(groups.begin(), groups.end(), [&](const auto& lanes) { return lanes->serves(job); });
    if (found == groups.end()) {
      groups.push_back(std::make_unique<Lanes>(job.task->model, job.task->layer, job.direction, lanes_));
      found = groups.end() - 1;
    }
    (*found)->add(job);
    return true;
  } catch (const std::bad_alloc&) {
    job.task->end(Ending::no_memory);
    return false;
  }
}

// Jobs that have left their lanes.
void Engine::leave(std::vector<Job>& jobs) {
  live_ -= static_cast<int>(jobs.size());
  for (const Job& job : jobs) ended(job);
  jobs.clear();
}

void Engine::ended(const Job& job) {
  if (job.task->pending.fetch_sub(1) > 1) return;
  if (!job.task->running())
    report(*job.task, {});
  else
    advance(job.task);
}

// All directions of a layer are done: the next layer, or the logits.
void Engine::advance(const std::shared_ptr<Task>& task) {
  try {
    const Model& model = *task->model;
    if (!task->last_layer()) {
      ++task->layer;
      task->below = std::move(task->outputs);
      task->outputs = task->last_layer() ? Buffer() : Buffer(task->length() * model.input_bytes(task->layer + 1));
      const Lock lock(mutex_);
      enqueue(task, true);
      return;
    }
    std::vector<float> logits(model.shape.num_logits);
    model.head(task->features.data(), logits.data());
    const bool finite = std::all_of(logits.begin(), logits.end(), [](float logit) { return std::isfinite(logit); });
    task->end(finite ? Ending::done : Ending::not_finite);
    report(*task, std::move(logits));
  } catch (const std::bad_alloc&) {
    task->end(Ending::no_memory);
    report(*task, {});
  }
}

void Engine::report(Task& task, std::vector<float> logits) {
  {
    const Lock lock(mutex_);
    tasks_.erase(task.ticket);
  }
  const Lock lock(results_mutex_);
  results_.push_back({task.ticket, task.ending, task.started, std::move(logits)});
  if (results_.size() > 1) return;
  [[maybe_unused]] const ssize_t rung = write(bell_, "", 1);  // fails where it is full: then it has rung already
}

}  // namespace lstmserve
