// The recurrences of torch.nn.LSTM, GRU and RNN for sixteen units of one lane.
//
// `in` are the gate inputs W_ih x + b of this token, `rec` the recurrent products W_hh h, each [gates][16] in torch's
// order of gates (LSTM: i, f, g, o; GRU: r, z, n). Included by the files of the paths only, after their Vector.
#pragma once

#include "path.h"

namespace lstmserve {
namespace {

// 2^x, within 1.2e-7 of its value; x below -126 is taken for -126. A NaN comes through.
inline Vector power_of_two(Vector x) {
  x = maximum(every(-126.0F), x);
  const Vector whole = nearest(x);
  const Vector r = x - whole;
  // minimax polynomial on [-1/2, 1/2], relative error 7.5e-8
  Vector p = every(0x1.5c08e4p-10F);
  p = fma(p, r, every(0x1.3d0c54p-7F));
  p = fma(p, r, every(0x1.c6b6e4p-5F));
  p = fma(p, r, every(0x1.ebf918p-3F));
  p = fma(p, r, every(0x1.62e428p-1F));
  p = fma(p, r, every(0x1.000002p+0F));
  return scale(p, whole);
}

// e^(factor * x), at most 2^40: products of three of them stay finite, and beyond it nothing changes in float32
inline Vector exponential(Vector x, float factor) {
  constexpr float log2_e = 1.44269504F;
  return power_of_two(minimum(every(40.0F), x * every(factor * log2_e)));
}

inline Vector sigmoid(Vector x) { return every(1) / (every(1) + exponential(x, -1)); }

inline Vector hyperbolic_tangent(Vector x) {
  const Vector e = exponential(x, 2);
  return (e - every(1)) / (e + every(1));
}

// The new hidden state; `state` [16] is c of the LSTM, h of the GRU in float32, and is updated.
template <Cell cell, class Row>
inline Vector advance(const Row* in, const float* rec, const float* n_bias, float* state) {
  const auto gate = [&](int n) { return load(in + 16 * n) + load(rec + 16 * n); };
  if constexpr (cell == Cell::lstm) {
    // c = sigmoid(f) c + sigmoid(i) tanh(g), over one common denominator
    const Vector i = every(1) + exponential(gate(0), -1);
    const Vector f = every(1) + exponential(gate(1), -1);
    const Vector g = exponential(gate(2), 2);
    const Vector ig = i * (g + every(1));
    const Vector c = fma(load(state), ig, (g - every(1)) * f) / (f * ig);
    store(state, c);
    // h = sigmoid(o) tanh(c)
    const Vector o = every(1) + exponential(gate(3), -1);
    const Vector e = exponential(c, 2);
    return (e - every(1)) / (o * (e + every(1)));
  } else if constexpr (cell == Cell::gru) {
    const Vector r = sigmoid(gate(0)), z = sigmoid(gate(1));
    const Vector n = hyperbolic_tangent(fma(r, load(rec + 32) + load(n_bias), load(in + 32)));
    const Vector h = fma(z, load(state) - n, n);
    store(state, h);
    return h;
  } else if constexpr (cell == Cell::rnn_tanh) {
    return hyperbolic_tangent(gate(0));
  } else {
    return maximum(every(0), gate(0));
  }
}

}  // namespace
}  // namespace lstmserve
