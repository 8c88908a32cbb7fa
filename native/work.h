// How much the threads have computed, and whether they still do.
#pragma once

#include <atomic>
#include <cstdint>

namespace lstmserve {

// Steps, and the lanes that were live in them, summed: one lane step is one token of one direction of one layer.
struct Work {
  std::uint64_t steps = 0, lane_steps = 0;
};

// A thread that is busy whenever one looks and whose beats stay the same is stuck.
struct Pulse {
  std::uint64_t beats = 0;  // bounded pieces of work
  bool busy = false;        // it holds a sequence, or looks for one
};

// What one thread does, which alone writes it; any may read it. It has a cache line of its own.
class alignas(64) Count {
 public:
  void step(int lanes) {
    add(steps_, 1);
    add(lane_steps_, static_cast<std::uint64_t>(lanes));
  }
  // It looks for work, or has dealt with some without a step.
  void turn() { add(turns_, 1); }
  void busy(bool is) { busy_.store(is, std::memory_order_relaxed); }
  void fail() { add(failures_, 1); }
  Work read() const { return {steps_.load(std::memory_order_relaxed), lane_steps_.load(std::memory_order_relaxed)}; }
  Pulse pulse() const {
    const std::uint64_t steps = steps_.load(std::memory_order_relaxed), turns = turns_.load(std::memory_order_relaxed);
    return {steps + turns, busy_.load(std::memory_order_relaxed)};
  }
  std::uint64_t failures() const { return failures_.load(std::memory_order_relaxed); }

 private:
  // without a locked instruction: there is one writer
  static void add(std::atomic<std::uint64_t>& to, std::uint64_t number) {
    to.store(to.load(std::memory_order_relaxed) + number, std::memory_order_relaxed);
  }

  std::atomic<std::uint64_t> steps_{0}, lane_steps_{0}, turns_{0}, failures_{0};
  std::atomic<bool> busy_{false};
};

}  // namespace lstmserve
