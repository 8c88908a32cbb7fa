// Sixteen floats in one AVX-512 register. Included by the files of AVX-512 paths only.
#pragma once

#include <immintrin.h>

#include <cstdint>

#include "number.h"

namespace lstmserve {
namespace {

struct Vector {
  __m512 v;
};

inline Vector load(const float* from) { return {_mm512_loadu_ps(from)}; }
inline Vector load(const Half* from) {
  return {_mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(from)))};
}
inline void store(float* to, Vector a) { _mm512_storeu_ps(to, a.v); }
inline void store(Half* to, Vector a) {
  constexpr int nearest = _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC;
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(to), _mm512_cvtps_ph(a.v, nearest));
}
inline Vector every(float value) { return {_mm512_set1_ps(value)}; }
inline Vector operator+(Vector a, Vector b) { return {_mm512_add_ps(a.v, b.v)}; }
inline Vector operator-(Vector a, Vector b) { return {_mm512_sub_ps(a.v, b.v)}; }
inline Vector operator*(Vector a, Vector b) { return {_mm512_mul_ps(a.v, b.v)}; }
inline Vector operator/(Vector a, Vector b) { return {_mm512_div_ps(a.v, b.v)}; }
inline Vector fma(Vector a, Vector b, Vector c) { return {_mm512_fmadd_ps(a.v, b.v, c.v)}; }
// a NaN in `b` comes through
inline Vector minimum(Vector a, Vector b) { return {_mm512_min_ps(a.v, b.v)}; }
inline Vector maximum(Vector a, Vector b) { return {_mm512_max_ps(a.v, b.v)}; }
// a - floor(a)
inline Vector fraction(Vector a) { return {_mm512_reduce_ps(a.v, _MM_FROUND_TO_NEG_INF | _MM_FROUND_NO_EXC)}; }
// a * 2^floor(b)
inline Vector scale(Vector a, Vector b) { return {_mm512_scalef_ps(a.v, b.v)}; }

}  // namespace
}  // namespace lstmserve
