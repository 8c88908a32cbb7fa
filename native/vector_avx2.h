// Sixteen floats in two AVX2 registers. Included by the file of the AVX2 path only.
#pragma once

#include <immintrin.h>

#include "number.h"

namespace lstmserve {
namespace {

struct Vector {
  __m256 low, high;
};

inline Vector load(const float* from) { return {_mm256_loadu_ps(from), _mm256_loadu_ps(from + 8)}; }
inline void store(float* to, Vector a) {
  _mm256_storeu_ps(to, a.low);
  _mm256_storeu_ps(to + 8, a.high);
}
inline Vector every(float value) { return {_mm256_set1_ps(value), _mm256_set1_ps(value)}; }
inline Vector operator+(Vector a, Vector b) { return {_mm256_add_ps(a.low, b.low), _mm256_add_ps(a.high, b.high)}; }
inline Vector operator-(Vector a, Vector b) { return {_mm256_sub_ps(a.low, b.low), _mm256_sub_ps(a.high, b.high)}; }
inline Vector operator*(Vector a, Vector b) { return {_mm256_mul_ps(a.low, b.low), _mm256_mul_ps(a.high, b.high)}; }
inline Vector operator/(Vector a, Vector b) { return {_mm256_div_ps(a.low, b.low), _mm256_div_ps(a.high, b.high)}; }
inline Vector fma(Vector a, Vector b, Vector c) {
  return {_mm256_fmadd_ps(a.low, b.low, c.low), _mm256_fmadd_ps(a.high, b.high, c.high)};
}
// a NaN in `b` comes through
inline Vector minimum(Vector a, Vector b) { return {_mm256_min_ps(a.low, b.low), _mm256_min_ps(a.high, b.high)}; }
inline Vector maximum(Vector a, Vector b) { return {_mm256_max_ps(a.low, b.low), _mm256_max_ps(a.high, b.high)}; }
// floor(a), at least -126
inline __m256 whole(__m256 a) {
  return _mm256_round_ps(_mm256_max_ps(_mm256_set1_ps(-126), a), _MM_FROUND_TO_NEG_INF | _MM_FROUND_NO_EXC);
}
// a - floor(a); 0 for a below -126
inline __m256 fraction(__m256 a) { return _mm256_sub_ps(_mm256_max_ps(_mm256_set1_ps(-126), a), whole(a)); }
inline Vector fraction(Vector a) { return {fraction(a.low), fraction(a.high)}; }
// a * 2^floor(b), where b below -126 counts as -126
inline __m256 scale(__m256 a, __m256 b) {
  const __m256i exponent = _mm256_add_epi32(_mm256_cvtps_epi32(whole(b)), _mm256_set1_epi32(127));
  return _mm256_mul_ps(a, _mm256_castsi256_ps(_mm256_slli_epi32(exponent, 23)));
}
inline Vector scale(Vector a, Vector b) { return {scale(a.low, b.low), scale(a.high, b.high)}; }

}  // namespace
}  // namespace lstmserve
