// Products in float32 with a Vector: every sum goes over the columns in their order, one fused multiply-add each.
#pragma once

#include <cstddef>

#include "tiles.h"

namespace lstmserve {
namespace {

inline void convert(float from, float& to) { to = from; }
inline float value(float from) { return from; }

// A tile is `span` gates of up to `height` rows, whose sums fit the registers; `span` 0 stands for all gates, and the
// height goes down with their number.
template <int span_or_all, int registers>
struct FloatKernel {
  using Element = float;
  using Row = float;

  static std::size_t offset(int gates, int columns, int block, int column, int gate, int unit) {
    return ((static_cast<std::size_t>(block) * columns + column) * gates + gate) * kBlock + unit;
  }

  static void begin(int) {}

  template <int gates, int span, int rows>
  static void tile(const float* matrix, int columns, const char* x, std::ptrdiff_t stride, float* out) {
    Vector sums[rows][span];
    for (int row = 0; row < rows; ++row)
      for (int gate = 0; gate < span; ++gate) sums[row][gate] = every(0);
    for (int column = 0; column < columns; ++column) {
      Vector w[span];
      for (int gate = 0; gate < span; ++gate) w[gate] = load(matrix + (column * gates + gate) * kBlock);
      for (int row = 0; row < rows; ++row) {
        const Vector h = every(reinterpret_cast<const float*>(x + row * stride)[column]);
        for (int gate = 0; gate < span; ++gate) sums[row][gate] = fma(h, w[gate], sums[row][gate]);
      }
    }
    for (int row = 0; row < rows; ++row)
      for (int gate = 0; gate < span; ++gate) store(out + (row * gates + gate) * kBlock, sums[row][gate]);
  }

  template <int gates>
  static void block(const float* matrix, int columns, const char* x, std::ptrdiff_t stride, int rows, float* out) {
    constexpr int span = span_or_all ? span_or_all : gates;
    static_assert(gates % span == 0, "tiles cover the gates");
    tiles<registers / span>(rows, [&](auto height, int row) {
      for (int gate = 0; gate < gates; gate += span)
        tile<gates, span, height>(matrix + gate * kBlock, columns, x + row * stride, stride,
                                  out + (row * gates + gate) * kBlock);
    });
  }
};

}  // namespace
}  // namespace lstmserve
