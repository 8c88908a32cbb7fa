// How much the threads have computed.
#pragma once

#include <atomic>
#include <cstdint>

namespace lstmserve {

// Steps, and the lanes that were live in them, summed: one lane step is one token of one direction of one layer.
struct Work {
  std::uint64_t steps = 0, lane_steps = 0;
};

// The work of one thread, which alone writes it; any may read it. It has a cache line of its own.
class alignas(64) Count {
 public:
  void step(int lanes) {
    add(steps_, 1);
    add(lane_steps_, static_cast<std::uint64_t>(lanes));
  }
  Work read() const { return {steps_.load(std::memory_order_relaxed), lane_steps_.load(std::memory_order_relaxed)}; }

 private:
  // without a locked instruction: there is one writer
  static void add(std::atomic<std::uint64_t>& to, std::uint64_t number) {
    to.store(to.load(std::memory_order_relaxed) + number, std::memory_order_relaxed);
  }

  std::atomic<std::uint64_t> steps_{0}, lane_steps_{0};
};

}  // namespace lstmserve
