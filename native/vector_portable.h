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
// adding 1.5 * 2^23 leaves no room for a fraction; for |a| < 2^22
inline Vector nearest(const Vector& a) {
  return map([&](int n) { return (a.v[n] + 12582912.0F) - 12582912.0F; });
}
// a * 2^n for whole n from -126 to 127
inline Vector scale(const Vector& a, const Vector& power) {
  return map([&](int n) {
    // a NaN must not be made an integer; a.v carries it
    const float whole = power.v[n] >= -126.0F ? power.v[n] : -126.0F;
    const std::uint32_t bits = static_cast<std::uint32_t>(static_cast<std::int32_t>(whole) + 127) << 23;
    float factor;
    std::memcpy(&factor, &bits, sizeof factor);
    return a.v[n] * factor;
  });
}

}  // namespace
}  // namespace lstmserve
