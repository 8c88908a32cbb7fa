#include "engine.h"

#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <limits>
#include <new>
#include <stdexcept>
#include <string>
#include <utility>

#include "fault.h"

namespace lstmserve {

constexpr int kMostLanes = 1 << 16;
// Until a thread that is in a step counts as stuck: no step takes that long.
constexpr int kCloseSeconds = 5;

std::shared_ptr<Engine> Engine::make(int threads, int lanes, int bell) {
  const auto engine = std::make_shared<Engine>(threads, lanes, bell);
  try {
    for (Worker& worker : engine->workers_) {
      const std::lock_guard lock(engine->mutex_);
      engine->threads_.emplace_back([engine, &worker] {
        worker.run();
        const std::lock_guard ending(engine->mutex_);
        --engine->running_;
        engine->left_.notify_all();
      });
      ++engine->running_;
    }
  } catch (...) {  // no more threads, above all: those that run must end
    engine->close();
    throw;
  }
  return engine;
}

Engine::Engine(int threads, int lanes, int bell) : bell_(dup(bell)), queue_(threads) {
  try {
    if (threads < 1 || lanes < 1) throw std::invalid_argument("threads and lanes must be positive");
    if (lanes > kMostLanes) throw std::invalid_argument("lanes must be at most " + std::to_string(kMostLanes));
    if (bell_ < 0) throw std::invalid_argument("bell must be a file descriptor");
    for (int number = 0; number < threads; ++number)
      workers_.emplace_back(queue_, number, threads, lanes, [this](const Job& job) { ended(job); });
  } catch (...) {
    if (bell_ >= 0) ::close(bell_);
    throw;
  }
}

Engine::~Engine() { ::close(bell_); }

bool Engine::close() {
  queue_.close();
  std::unique_lock lock(mutex_);
  if (!threads_.empty()) left_.wait_for(lock, std::chrono::seconds(kCloseSeconds), [&] { return !running_; });
  const bool ended = !running_;
  std::vector<std::thread> threads = std::exchange(threads_, {});
  lock.unlock();
  for (std::thread& thread : threads) ended ? thread.join() : thread.detach();
  return ended;
}

std::uint64_t Engine::start(std::shared_ptr<const Model> model, std::vector<std::int32_t> tokens, double deadline) {
  const Shape& shape = model->shape;
  if (tokens.empty()) throw std::invalid_argument("a sequence must have at least one token");
  for (const std::int32_t token : tokens)
    if (token < 0 || token >= shape.vocab_size)
      throw std::invalid_argument("token id " + std::to_string(token) + " is not from 0 to " +
                                  std::to_string(shape.vocab_size - 1));
  meet(Point::start, tokens.data(), static_cast<int>(tokens.size()));
  auto task = std::make_shared<Task>();
  task->model = std::move(model);
  task->tokens = std::move(tokens);
  task->deadline = deadline;
  task->features.resize(shape.feature_size());
  task->result.emplace_back().logits.resize(shape.num_logits);
  if (!task->last_layer()) task->outputs = Buffer(task->length() * task->model->input_bytes(1));
  {
    const std::lock_guard lock(mutex_);
    task->ticket = ++tickets_;
    tasks_.emplace(task->ticket, task);
  }
  const std::uint64_t ticket = task->ticket;
  try {
    queue_.push(task, false);
  } catch (const std::bad_alloc&) {
    const std::lock_guard lock(mutex_);
    tasks_.erase(ticket);
    throw;
  }
  return ticket;
}

void Engine::cancel(std::uint64_t ticket) {
  std::shared_ptr<Task> task;
  {
    const std::lock_guard lock(mutex_);
    const auto found = tasks_.find(ticket);
    if (found == tasks_.end()) return;
    task = found->second;
  }
  task->end(Ending::cancelled);
  drop_if_ended(*task);
}

// What waits of a sequence that has ended goes at once, whichever came first: the ending or the queueing.
void Engine::drop_if_ended(const Task& task) {
  if (task.running()) return;
  while (const std::optional<Job> job = queue_.remove(task)) ended(*job);
}

std::list<Result> Engine::collect() {
  const std::lock_guard lock(mutex_);
  return std::exchange(results_, {});
}

Work Engine::work() const {
  Work sum;
  for (const Worker& worker : workers_) {
    const Work one = worker.count().read();
    sum.steps += one.steps;
    sum.lane_steps += one.lane_steps;
  }
  return sum;
}

std::vector<Pulse> Engine::pulses() const {
  std::vector<Pulse> all;
  for (const Worker& worker : workers_) all.push_back(worker.count().pulse());
  return all;
}

std::uint64_t Engine::failures() const {
  std::uint64_t sum = 0;
  for (const Worker& worker : workers_) sum += worker.count().failures();
  return sum;
}

std::size_t Engine::held() {
  const std::lock_guard lock(mutex_);
  return tasks_.size();
}

void Engine::ended(const Job& job) {
  if (job.task->pending.fetch_sub(1) > 1)
    drop_if_ended(*job.task);
  else if (job.task->running())
    advance(job.task);
  else
    report(*job.task);
}

// All directions of a layer are done: the next layer, or the logits.
void Engine::advance(const std::shared_ptr<Task>& task) {
  const Model& model = *task->model;
  try {
    if (!task->last_layer()) {
      meet(Point::advance, task->tokens.data(), task->length());
      ++task->layer;
      task->below = std::move(task->outputs);
      task->outputs = task->last_layer() ? Buffer() : Buffer(task->length() * model.input_bytes(task->layer + 1));
      queue_.push(task, true);
      drop_if_ended(*task);
      return;
    }
    if (meet(Point::head, task->tokens.data(), task->length()))
      task->features[0] = std::numeric_limits<float>::quiet_NaN();
    std::vector<float>& logits = task->result.front().logits;
    model.head(task->features.data(), logits.data());
    const bool finite = std::all_of(logits.begin(), logits.end(), [](float logit) { return std::isfinite(logit); });
    task->end(finite ? Ending::done : Ending::not_finite);
  } catch (const std::bad_alloc&) {
    task->end(Ending::no_memory);
  } catch (...) {
    task->end(Ending::lost);
    report(*task);
    throw;
  }
  report(*task);
}

void Engine::report(Task& task) {
  Result& result = task.result.front();
  result.ticket = task.ticket;
  result.ending = task.ending;
  result.started = task.started;
  if (result.ending != Ending::done) result.logits.clear();
  const std::lock_guard lock(mutex_);
  tasks_.erase(task.ticket);
  const bool first = results_.empty();
  results_.splice(results_.end(), task.result);
  if (!first) return;
  [[maybe_unused]] const ssize_t rung = write(bell_, "", 1);  // fails where it is full: then it has rung already
}

}  // namespace lstmserve
