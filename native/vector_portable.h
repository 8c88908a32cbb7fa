// Sixteen floats as plain loops, for any processor; compilers turn them into what there is (SSE2, NEON).
#pragma once

#include <cstdint>
#include <cstring>

#include "number.h"

namespace lstmserve {
namespace {

struct Vector {
  float v[16];
};

template <class Function>
inline Vector map(Function function) {
  Vector result;
  for (int n = 0; n < 16; ++n) result.v[n] = function(n);
  return result;
}

inline Vector load(const float* from) {
  Vector result;
  std::memcpy(result.v, from, sizeof result.v);
  return result;
}
inline void store(float* to, const Vector& a) { std::memcpy(to, a.v, sizeof a.v); }
inline Vector every(float value) {
  return map([=](int) { return value; });
}
inline Vector operator+(const Vector& a, const Vector& b) {
  return map([&](int n) { return a.v[n] + b.v[n]; });
}
inline Vector operator-(const Vector& a, const Vector& b) {
  return map([&](int n) { return a.v[n] - b.v[n]; });
}
inline Vector operator*(const Vector& a, const Vector& b) {
  return map([&](int n) { return a.v[n] * b.v[n]; });
}
inline Vector operator/(const Vector& a, const Vector& b) {
  return map([&](int n) { return a.v[n] / b.v[n]; });
}
// not fused: few baseline processors have it
inline Vector fma(const Vector& a, const Vector& b, const Vector& c) {
  return map([&](int n) { return a.v[n] * b.v[n] + c.v[n]; });
}
// a NaN in `b` comes through
inline Vector minimum(const Vector& a, const Vector& b) {
  return map([&](int n) { return a.v[n] < b.v[n] ? a.v[n] : b.v[n]; });
}
inline Vector maximum(const Vector& a, const Vector& b) {
  return map([&](int n) { return a.v[n] > b.v[n] ? a.v[n] : b.v[n]; });
}
// floor(a) or one less, from -126 to 2^22: adding 1.5 * 2^23 leaves no room for a fraction
inline float whole(float a) {
  a = a > -126.0F ? a : -126.0F;
  return ((a - 0.5F) + 12582912.0F) - 12582912.0F;
}
// a - whole(a), from 0 to 1; 0 for a below -126. A NaN comes through.
inline Vector fraction(const Vector& a) {
  return map([&](int n) { return a.v[n] < -126.0F ? 0.0F : a.v[n] - whole(a.v[n]); });
}
// a * 2^whole(b)
inline Vector scale(const Vector& a, const Vector& b) {
  return map([&](int n) {
    const std::uint32_t bits = static_cast<std::uint32_t>(static_cast<std::int32_t>(whole(b.v[n])) + 127) << 23;
    float factor;
    std::memcpy(&factor, &bits, sizeof factor);
    return a.v[n] * factor;
  });
}

}  // namespace
}  // namespace lstmserve
