// A path made of a Vector and two matrix products: `Kernel`, on states as the path keeps them, and `Exact` in float32.
//
// A kernel has: Element; Row; offset(gates, columns, block, column, gate, unit), the place in a packed matrix; and
// block<gates>(matrix, columns, x, stride, rows, out), which writes the product with one block, [rows][gates][16].
// Included by the files of the paths only; all of it has internal linkage, so that no other file can end up with code
// for this instruction set.
#pragma once

#include "cells.h"
#include "path.h"

namespace lstmserve {
namespace {

template <class Kernel, class Exact>
struct PathOf {
  using Element = typename Kernel::Element;
  using Row = typename Kernel::Row;

  template <class K>
  static void pack(const float* w, int gates, int units, int size, typename K::Element* packed) {
    const int blocks = round_up(units, kBlock) / kBlock, columns = round_up(size, kStateAlign);
    for (int block = 0; block < blocks; ++block)
      for (int column = 0; column < columns; ++column)
        for (int gate = 0; gate < gates; ++gate)
          for (int n = 0; n < kBlock; ++n) {
            const int unit = block * kBlock + n;
            const bool real = unit < units && column < size;
            const float value = real ? w[(static_cast<std::size_t>(gate) * units + unit) * size + column] : 0.0F;
            convert(value, packed[K::offset(gates, columns, block, column, gate, n)]);
          }
  }

  static void pack_states(const float* w, int gates, int units, int size, void* packed) {
    pack<Kernel>(w, gates, units, size, static_cast<Element*>(packed));
  }

  static void encode(const float* from, int size, void* to) {
    for (int n = 0; n < size; ++n) convert(from[n], static_cast<Element*>(to)[n]);
  }

  static void decode(const void* from, int size, float* to) {
    for (int n = 0; n < size; ++n) to[n] = value(static_cast<const Element*>(from)[n]);
  }

  template <int gates, class K, class Out>
  static void rows(const Product& p, const float* bias, void* const* out, float* scratch) {
    const auto* matrix = static_cast<const typename K::Element*>(p.matrix);
    for (int block = 0; block < p.blocks; ++block) {
      const auto* packed = matrix + static_cast<std::size_t>(block) * gates * kBlock * p.columns;
      K::template block<gates>(packed, p.columns, static_cast<const char*>(p.x), p.stride, p.rows, scratch);
      const std::size_t place = static_cast<std::size_t>(block) * gates * kBlock;
      for (int row = 0; row < p.rows; ++row)
        for (int gate = 0; gate < gates; ++gate) {
          const std::size_t at = place + gate * kBlock;
          const Vector sum = load(scratch + (row * gates + gate) * kBlock) + load(bias + at);
          store(static_cast<Out*>(out[row]) + at, sum);
        }
    }
  }

  template <class K, class Out>
  static void rows_of(const Product& p, const float* bias, void* const* out, float* scratch) {
    switch (p.gates) {
      case 4: return rows<4, K, Out>(p, bias, out, scratch);
      case 3: return rows<3, K, Out>(p, bias, out, scratch);
      default: return rows<1, K, Out>(p, bias, out, scratch);
    }
  }

  // Gives a state to the next step and to the pooling.
  static void put(const Step& s, int row, int block, int blocks, Vector h) {
    store(static_cast<Element*>(s.next) + static_cast<std::size_t>(row) * s.columns + block * kBlock, h);
    const std::size_t at = (static_cast<std::size_t>(row) * blocks + block) * kBlock;
    if (s.max) store(s.max + at, maximum(load(s.max + at), h));
    if (s.sum) store(s.sum + at, load(s.sum + at) + h);
  }

  template <Cell cell>
  static void advance_all(const Step& s) {
    constexpr int gates = gates_of(cell);
    const auto* matrix = static_cast<const Element*>(s.recurrent);
    const std::ptrdiff_t stride = static_cast<std::ptrdiff_t>(s.columns) * sizeof(Element);
    for (int block = 0; block < s.blocks; ++block) {
      const auto* packed = matrix + static_cast<std::size_t>(block) * gates * kBlock * s.columns;
      Kernel::template block<gates>(packed, s.columns, static_cast<const char*>(s.h), stride, s.rows, s.scratch);
      for (int row = 0; row < s.rows; ++row) {
        const Row* in = static_cast<const Row*>(s.inputs[row]) + block * gates * kBlock;
        const Row* ahead = static_cast<const Row*>(s.ahead[row]) + block * gates * kBlock;
        for (int n = 0; n < gates * kBlock; n += 64 / sizeof(Row)) __builtin_prefetch(ahead + n);
        const float* n_bias = s.n_bias + block * kBlock;
        float* state = s.state + (static_cast<std::size_t>(row) * s.blocks + block) * kBlock;
        const Vector h = advance<cell>(in, s.scratch + row * gates * kBlock, n_bias, state);
        if (s.projection)
          store(static_cast<Element*>(s.raw) + static_cast<std::size_t>(row) * s.raw_columns + block * kBlock, h);
        else
          put(s, row, block, s.blocks, h);
      }
    }
    if (s.projection) project(s);
  }

  static void project(const Step& s) {
    const auto* matrix = static_cast<const Element*>(s.projection);
    const std::ptrdiff_t stride = static_cast<std::ptrdiff_t>(s.raw_columns) * sizeof(Element);
    for (int block = 0; block < s.projection_blocks; ++block) {
      const auto* packed = matrix + static_cast<std::size_t>(block) * kBlock * s.raw_columns;
      Kernel::template block<1>(packed, s.raw_columns, static_cast<const char*>(s.raw), stride, s.rows, s.scratch);
      for (int row = 0; row < s.rows; ++row) put(s, row, block, s.projection_blocks, load(s.scratch + row * kBlock));
    }
  }

  static void step(const Step& s) {
    Kernel::begin(s.rows);
    switch (s.cell) {
      case Cell::lstm: advance_all<Cell::lstm>(s); break;
      case Cell::gru: advance_all<Cell::gru>(s); break;
      case Cell::rnn_tanh: advance_all<Cell::rnn_tanh>(s); break;
      case Cell::rnn_relu: advance_all<Cell::rnn_relu>(s); break;
    }
  }

  static void gate_inputs(const Product& p, const float* bias, void* const* out, float* scratch) {
    Kernel::begin(p.rows);
    rows_of<Kernel, Row>(p, bias, out, scratch);
  }

  static constexpr Path path(const char* name, const char* precision) {
    return {name,   precision, sizeof(Element), sizeof(Row),         pack_states,           pack<Exact>,
            encode, decode,    gate_inputs,     rows_of<Exact, Row>, rows_of<Exact, float>, step};
  }
};

}  // namespace
}  // namespace lstmserve
