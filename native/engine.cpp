#include "engine.h"

#include <unistd.h>

#include <algorithm>
#include <cmath>
#include <new>
#include <stdexcept>
#include <string>
#include <utility>

#include "worker.h"

namespace lstmserve {

constexpr int kMostLanes = 1 << 16;

Engine::Engine(int threads, int lanes, int bell) : bell_(dup(bell)), queue_(threads) {
  try {
    if (threads < 1 || lanes < 1) throw std::invalid_argument("threads and lanes must be positive");
    if (lanes > kMostLanes) throw std::invalid_argument("lanes must be at most " + std::to_string(kMostLanes));
    if (bell_ < 0) throw std::invalid_argument("bell must be a file descriptor");
    for (int number = 0; number < threads; ++number) {
      Count& count = counts_.emplace_back();
      threads_.emplace_back(
          [=, &count] { Worker(queue_, count, number, threads, lanes, [this](const Job& job) { ended(job); }).run(); });
    }
  } catch (...) {  // no more threads, above all: those that run must end
    close();
    throw;
  }
}

Engine::~Engine() { close(); }

void Engine::close() {
  queue_.close();
  for (std::thread& thread : threads_)
    if (thread.joinable()) thread.join();
  if (bell_ >= 0) ::close(std::exchange(bell_, -1));
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

// What waits of a cancelled sequence goes at once, whichever came first: the cancelling or the queueing.
void Engine::drop_if_ended(const Task& task) {
  if (task.running()) return;
  for (const Job& job : queue_.remove(task)) ended(job);
}

std::vector<Result> Engine::collect() {
  const std::lock_guard lock(mutex_);
  return std::exchange(results_, {});
}

Work Engine::work() const {
  Work sum;
  for (const Count& count : counts_) {
    const Work one = count.read();
    sum.steps += one.steps;
    sum.lane_steps += one.lane_steps;
  }
  return sum;
}

void Engine::ended(const Job& job) {
  if (job.task->pending.fetch_sub(1) > 1) return;
  if (job.task->running())
    advance(job.task);
  else
    report(*job.task, {});
}

// All directions of a layer are done: the next layer, or the logits.
void Engine::advance(const std::shared_ptr<Task>& task) {
  const Model& model = *task->model;
  std::vector<float> logits;
  try {
    if (!task->last_layer()) {
      ++task->layer;
      task->below = std::move(task->outputs);
      task->outputs = task->last_layer() ? Buffer() : Buffer(task->length() * model.input_bytes(task->layer + 1));
      queue_.push(task, true);
      drop_if_ended(*task);
      return;
    }
    logits.resize(model.shape.num_logits);
    model.head(task->features.data(), logits.data());
    const bool finite = std::all_of(logits.begin(), logits.end(), [](float logit) { return std::isfinite(logit); });
    task->end(finite ? Ending::done : Ending::not_finite);
  } catch (const std::bad_alloc&) {
    task->end(Ending::no_memory);
  }
  report(*task, std::move(logits));
}

void Engine::report(Task& task, std::vector<float> logits) {
  const std::lock_guard lock(mutex_);
  tasks_.erase(task.ticket);
  results_.push_back({task.ticket, task.ending, task.started, std::move(logits)});
  if (results_.size() > 1) return;
  [[maybe_unused]] const ssize_t rung = write(bell_, "", 1);  // fails where it is full: then it has rung already
}

}  // namespace lstmserve
