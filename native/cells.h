// The recurrences of torch.nn.LSTM, GRU and RNN for sixteen units of one lane.
//
// `in` are the gate inputs W_ih x + b of this token, `rec` the recurrent products W_hh h, each [gates][16] in torch's
// order of gates (LSTM: i, f, g, o; GRU: r, z, n), multiplied by gate_factor. Included by the files of the paths only,
// after their Vector.
#pragma once

#include "path.h"

namespace lstmserve {
namespace {

// 2^x for x up to 40, within 1.6e-7 of its value: products of three of them stay finite, and beyond 40 nothing changes
// in a float32 sigmoid. A NaN comes through.
inline Vector power_of_two(Vector x) {
  x = minimum(every(40.0F), x);
  const Vector r = fraction(x);
  // minimax polynomial on [0, 1], relative error 7.5e-8
  Vector p = every(0x1.ec320ap-10F);
  p = fma(p, r, every(0x1.26900ep-7F));
  p = fma(p, r, every(0x1.c95446p-5F));
  p = fma(p, r, every(0x1.ebd5a8p-3F));
  p = fma(p, r, every(0x1.62e4f6p-1F));
  p = fma(p, r, every(0x1.fffffep-1F));
  return scale(p, x);
}

// Gates come multiplied by gate_factor (path.h).
inline Vector sigmoid(Vector gate) { return every(1) / (every(1) + power_of_two(gate)); }

inline Vector hyperbolic_tangent(Vector gate) {
  const Vector e = power_of_two(gate);
  return (e - every(1)) / (e + every(1));
}

// The new hidden state; `state` [16] is c of the LSTM, h of the GRU in float32, and is updated.
template <Cell cell, class Row>
inline Vector advance(const Row* in, const float* rec, const float* n_bias, float* state) {
  const auto gate = [&](int n) { return load(in + 16 * n) + load(rec + 16 * n); };
  if constexpr (cell == Cell::lstm) {
    // c = sigmoid(f) c + sigmoid(i) tanh(g), over one common denominator
    const Vector i = every(1) + power_of_two(gate(0));
    const Vector f = every(1) + power_of_two(gate(1));
    const Vector g = power_of_two(gate(2));
    const Vector ig = i * (g + every(1));
    const Vector c = fma(load(state), ig, (g - every(1)) * f) / (f * ig);
    store(state, c);
    // h = sigmoid(o) tanh(c)
    const Vector o = every(1) + power_of_two(gate(3));
    const Vector e = power_of_two(c * every(kTanhFactor));
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
