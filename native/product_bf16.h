// Products of bfloat16 pairs with float32 sums (AVX512-BF16), in the order of the columns.
#pragma once

#include <immintrin.h>

#include <cstring>

#include "tiles.h"

namespace lstmserve {
namespace {

inline void convert(float from, Bf16& to) {
  const __m128bh pair = _mm_cvtneps_pbh(_mm_set_ss(from));
  std::memcpy(&to, &pair, sizeof to);
}
inline float value(Bf16 from) {
  const std::uint32_t bits = static_cast<std::uint32_t>(from.bits) << 16;
  float result;
  std::memcpy(&result, &bits, sizeof result);
  return result;
}
inline void store(Bf16* to, Vector a) {
  const __m256bh rounded = _mm512_cvtneps_pbh(a.v);
  std::memcpy(to, &rounded, sizeof rounded);
}

struct Bf16Kernel {
  using Element = Bf16;
  using Row = Half;

  // [blocks][columns / 2][gates][16 units][2 columns]
  static std::size_t offset(int gates, int columns, int block, int column, int gate, int unit) {
    const std::size_t pair = static_cast<std::size_t>(block) * (columns / 2) + column / 2;
    return ((pair * gates + gate) * kBlock + unit) * 2 + column % 2;
  }

  static void begin(int) {}

  template <int gates, int rows>
  static void tile(const Bf16* matrix, int pairs, const char* x, std::ptrdiff_t stride, float* out) {
    __m512 sums[rows][gates];
    for (int row = 0; row < rows; ++row)
      for (int gate = 0; gate < gates; ++gate) sums[row][gate] = _mm512_setzero_ps();
    for (int pair = 0; pair < pairs; ++pair) {
      __m512bh w[gates];
      for (int gate = 0; gate < gates; ++gate)
        w[gate] = (__m512bh)_mm512_loadu_si512(matrix + (pair * gates + gate) * 2 * kBlock);
      for (int row = 0; row < rows; ++row) {
        int both;
        std::memcpy(&both, x + row * stride + pair * 4, sizeof both);
        const __m512bh h = (__m512bh)_mm512_set1_epi32(both);
        for (int gate = 0; gate < gates; ++gate) sums[row][gate] = _mm512_dpbf16_ps(sums[row][gate], h, w[gate]);
      }
    }
    for (int row = 0; row < rows; ++row)
      for (int gate = 0; gate < gates; ++gate) _mm512_storeu_ps(out + (row * gates + gate) * kBlock, sums[row][gate]);
  }

  template <int gates>
  static void block(const Bf16* matrix, int columns, const char* x, std::ptrdiff_t stride, int rows, float* out) {
    tiles<24 / gates>(rows, [&](auto height, int row) {
      tile<gates, height>(matrix, columns / 2, x + row * stride, stride, out + row * gates * kBlock);
    });
  }
};

}  // namespace
}  // namespace lstmserve
