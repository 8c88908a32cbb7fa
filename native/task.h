// One sequence on its way through the layers, and its parts.
#pragma once

#include <atomic>
#include <cstdint>
#include <list>
#include <memory>
#include <vector>

#include "buffer.h"
#include "model.h"

namespace lstmserve {

enum class Ending { none, done, cancelled, overdue, not_finite, no_memory, lost };

// How a sequence ended; `logits` where it is done. `started`: seconds of the monotonic clock.
struct Result {
  std::uint64_t ticket;
  Ending ending;
  double started;
  std::vector<float> logits;
};

struct Task {
  std::uint64_t ticket;
  std::shared_ptr<const Model> model;
  std::vector<std::int32_t> tokens;
  double deadline;
  int layer = 0;
  std::atomic<double> started{0};  // when its first job got a lane
  std::atomic<Ending> ending{Ending::none};
  std::atomic<int> pending{0};  // directions of this layer that have not come to their end
  Buffer below, outputs;        // states of all tokens [tokens][both directions]: of the layer below, and of this one
  std::vector<float> features;  // [feature_size]
  std::list<Result> result;     // its one result, made beforehand: to report it takes no memory

  int length() const { return static_cast<int>(tokens.size()); }
  bool last_layer() const { return layer + 1 == model->shape.num_layers; }
  bool running() const { return ending.load(std::memory_order_relaxed) == Ending::none; }
  // The first time counts.
  void begin(double time) {
    double none = 0;
    started.compare_exchange_strong(none, time);
  }
  // The first ending counts.
  void end(Ending how) {
    Ending none = Ending::none;
    ending.compare_exchange_strong(none, how);
  }
};

// One direction of one layer of one sequence.
struct Job {
  std::shared_ptr<Task> task;
  int direction;
};

}  // namespace lstmserve
