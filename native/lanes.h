// The lanes of one direction of one layer of one model in one thread: their states, stepped together.
#pragma once

#include <memory>
#include <vector>

#include "buffer.h"
#include "model.h"
#include "task.h"

namespace lstmserve {

class Lanes {
 public:
  Lanes(const std::shared_ptr<const Model>& model, int layer, int direction, int capacity);

  bool serves(const Job& job) const {
    return !model_.expired() && job.task->model.get() == key_ && job.task->layer == layer_ &&
           job.direction == direction_;
  }
  bool orphaned() const { return model_.expired(); }
  int rows() const { return static_cast<int>(lanes_.size()); }
  bool full() const { return rows() == capacity_; }

  // Takes a job into a free lane, of which there must be one.
  void add(Job job);
  // Advances every lane by one token; the jobs that came to their end are added to `finished`.
  void step(std::vector<Job>& finished);
  // Frees the lanes of sequences that have ended, or whose deadline is not after `now`.
  void drop(double now, std::vector<Job>& dropped);
  // Frees a lane, of which there must be one, whatever it holds.
  Job take();

 private:
  struct Lane {
    Job job;
    int position;              // tokens done
    int slot;                  // its part of `chunks_`
    const void* gate[kChunk];  // gate inputs of the tokens from position / kChunk * kChunk on
  };

  const Model& model() const { return *key_; }
  int token_at(const Lane& lane, int position) const;
  void fetch(Lane& lane);
  void fetch_embedded(Lane& lane, int count);
  void fetch_outputs(Lane& lane, int count);
  void compute(const void* x, std::ptrdiff_t stride, int rows, void* const* out);
  void spoil(int row);
  void keep(int row);
  void pool(int row);
  void remove(int row);
  float* feature(const Lane& lane, std::size_t kind) const;

  const std::weak_ptr<const Model> model_;
  const Model* const key_;
  const int layer_, direction_, capacity_;
  std::vector<Lane> lanes_;
  std::vector<int> slots_;  // the free ones
  std::vector<const void*> inputs_, ahead_;
  Buffer h_, next_, raw_, state_, max_, sum_, scratch_;
  Buffer chunks_, x_;  // gate inputs that no table holds [slots][kChunk][row], and what they are computed from
};

}  // namespace lstmserve
