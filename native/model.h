// The weights of one classifier, made ready for one path.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "buffer.h"
#include "path.h"

namespace lstmserve {

enum class Pooling { last, last_output, max, mean };

// Sizes as in models/config.py
struct Shape {
  Cell cell;
  int vocab_size, embedding_dim, hidden_size, num_layers, num_directions, proj_size;
  std::vector<Pooling> pooling;
  int num_logits;

  // Throws std::invalid_argument.
  void check() const;

  int gates() const { return gates_of(cell); }
  int state_size() const { return proj_size ? proj_size : hidden_size; }
  int blocks() const { return round_up(hidden_size, kBlock) / kBlock; }
  int state_blocks() const { return round_up(state_size(), kBlock) / kBlock; }
  // elements of a row of states as the path keeps it
  int columns() const { return round_up(state_size(), kStateAlign); }
  int raw_columns() const { return round_up(hidden_size, kStateAlign); }
  // elements of one token's gate inputs
  std::size_t row() const { return static_cast<std::size_t>(blocks()) * gates() * kBlock; }
  // elements of the rows that a layer reads
  int inputs(int layer) const { return layer ? num_directions * state_size() : embedding_dim; }
  int feature_size() const { return static_cast<int>(pooling.size()) * num_directions * state_size(); }
  bool pools(Pooling kind) const;
};

// The float32 weights of one direction of one layer, in torch's layout; null where there are none.
struct DirectionWeights {
  const float *w_ih, *w_hh, *b_ih, *b_hh, *w_hr;
};

struct Weights {
  const float* embedding;                    // [vocab_size][embedding_dim]
  std::vector<DirectionWeights> directions;  // layer 0 forward, layer 0 reverse, layer 1 forward, ...
  const float *linear, *linear_bias;         // [num_logits][feature_size], [num_logits]
};

struct Direction {
  Buffer w_ih, w_hh, w_hr;
  Buffer bias;    // float [row]: what the gate inputs carry
  Buffer n_bias;  // float [blocks][16]
  Buffer table;   // layer 0: the gate inputs of the first `table_rows` token ids
};

class Model {
 public:
  // `table_rows` token ids from 0 get their gate inputs folded into a table, by `threads` threads. Throws
  // std::invalid_argument.
  Model(const Path& path, Shape shape, const Weights& weights, int table_rows, int threads);

  const Path& path;
  const Shape shape;
  const int table_rows;

  const Direction& direction(int layer, int which) const {
    return directions_[static_cast<std::size_t>(layer) * shape.num_directions + which];
  }
  // the embedding of a token id from `table_rows` on, as states [columns of layer 0's inputs]
  const void* embedding(std::int32_t token) const;
  std::size_t row_bytes() const { return shape.row() * path.row; }
  // bytes of a row of the states that a layer reads
  std::size_t input_bytes(int layer) const {
    return static_cast<std::size_t>(round_up(shape.inputs(layer), kStateAlign)) * path.element;
  }
  // logits [num_logits] of features [feature_size]
  void head(const float* features, float* logits) const;

 private:
  void pack(Direction& to, const DirectionWeights& from, int layer);
  void fold(Direction& to, const DirectionWeights& from, const float* embedding, int threads);

  std::vector<Direction> directions_;
  Buffer embedding_, linear_, linear_bias_;
};

}  // namespace lstmserve
