// The seam of the instruction sets: what the engine asks of a processor, and the ways there are to do it.
//
// Units go in blocks of sixteen; the last block of a matrix is filled up with zeros, which stay zeros. A packed matrix
// is [blocks][columns of the state][gates][16 units] in an order of the path's own. A lane's result never depends on
// which or how many lanes go with it: every path adds up a product in one fixed order.
#pragma once

#include <cstddef>

namespace lstmserve {

enum class Cell { lstm, gru, rnn_tanh, rnn_relu };

constexpr int kBlock = 16;
// Elements to whose multiple the rows of states are filled up with zeros.
constexpr int kStateAlign = 32;
// Rows to whose multiple buffers of rows are allocated; a path may read and write all of the last ones.
constexpr int kRowAlign = 16;
// Tokens whose gate inputs are computed together.
constexpr int kChunk = 16;

// What the weights and biases of a gate are multiplied by, so that the exponential in its sigmoid, 1 / (1 + e^-x), or
// hyperbolic tangent, (e^2x - 1) / (e^2x + 1), is a power of two.
constexpr float kSigmoidFactor = -1.44269504F, kTanhFactor = 2.88539008F;
constexpr float gate_factor(Cell cell, int gate) {
  if (cell == Cell::rnn_relu) return 1;
  const bool tanh = cell == Cell::rnn_tanh || gate == 2;
  return tanh ? kTanhFactor : kSigmoidFactor;
}

constexpr int gates_of(Cell cell) { return cell == Cell::lstm ? 4 : cell == Cell::gru ? 3 : 1; }
constexpr int round_up(int value, int step) { return (value + step - 1) / step * step; }

// One matrix product and where it goes: rows of states x times a packed matrix.
struct Product {
  const void* matrix;
  int gates, blocks, columns;  // columns: filled up to kStateAlign
  const void* x;               // [rows][columns], the first element of the first row
  std::ptrdiff_t stride;       // bytes from one row to the next; may be negative
  int rows;
};

// One step of the lanes of one direction of one layer.
struct Step {
  Cell cell;
  int rows, blocks, columns;
  const void* recurrent;      // packed W_hh
  const void* const* inputs;  // [rows]: gate inputs [blocks][gates][16] of each lane's token
  const void* const* ahead;   // [rows]: those of its next token, to be fetched from memory meanwhile
  const float* n_bias;        // [blocks][16]: the GRU's b_hn
  const void* h;              // [rows][columns]: states before
  void* next;                 // [rows][columns]: and after
  float* state;               // [rows][blocks][16]: c of the LSTM, h of the GRU
  // projection (LSTM): packed W_hr, its blocks and columns, the unprojected states [rows][raw_columns]
  const void* projection;
  int projection_blocks, raw_columns;
  void* raw;
  float* max;      // [rows][output blocks][16]: running maximum, or null
  float* sum;      // running sum, or null
  float* scratch;  // [rows][4][16]
};

struct Path {
  const char* name;
  const char* precision;
  int element;  // bytes of an element of states and packed matrices
  int row;      // bytes of an element of gate inputs
  // Packs w [gates][units][size] in torch's layout; `exact` for the products in float32 below.
  void (*pack)(const float* w, int gates, int units, int size, void* packed);
  void (*pack_exact)(const float* w, int gates, int units, int size, float* packed);
  void (*encode)(const float* from, int size, void* to);
  void (*decode)(const void* from, int size, float* to);
  // out[row] [blocks][gates][16] = x W + bias, as gate inputs
  void (*gate_inputs)(const Product& product, const float* bias, void* const* out, float* scratch);
  // the same from float32 states and a matrix of pack_exact
  void (*fold)(const Product& product, const float* bias, void* const* out, float* scratch);
  // out[row] [blocks][gates][16] = x W + bias in float32, likewise
  void (*exact)(const Product& product, const float* bias, void* const* out, float* scratch);
  void (*step)(const Step& step);
};

// Floats of a scratch buffer for products of up to `rows` rows.
constexpr int scratch_size(int rows) { return round_up(rows, kRowAlign) * 4 * kBlock; }

}  // namespace lstmserve
