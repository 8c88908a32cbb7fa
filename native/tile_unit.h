// The AMX instructions that the products use: tiles 0 to 3 hold the sums of up to four gates, 4 the rows of states, 5
// and 6 take turns with the weights. With LSTMSERVE_EMULATE_AMX they are written out, to test the product without AMX.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>

#include "number.h"
#include "path.h"

namespace lstmserve {
namespace {

#ifndef LSTMSERVE_EMULATE_AMX

// 64 bytes, as LDTILECFG reads them
struct alignas(64) TileConfig {
  std::uint8_t palette = 1, start_row = 0, reserved[14] = {};
  std::uint16_t bytes[16] = {};
  std::uint8_t rows[16] = {};
};

// The compiler does not know which memory the instructions read: all that was written before must be there.
inline void settle_memory() { asm volatile("" ::: "memory"); }

// The height of tiles 0 to 4; it is set again only where it changes, since that takes long.
inline void configure(int rows) {
  thread_local int present = 0;
  if (rows == present) return;
  present = rows;
  TileConfig config;
  for (int tile = 0; tile < 7; ++tile) {
    config.bytes[tile] = 64;
    config.rows[tile] = static_cast<std::uint8_t>(tile < 5 ? rows : 16);
  }
  settle_memory();
  _tile_loadconfig(&config);
}

template <int gates>
inline void zero() {
  settle_memory();
  _tile_zero(0);
  if constexpr (gates > 1) _tile_zero(1);
  if constexpr (gates > 2) _tile_zero(2);
  if constexpr (gates > 3) _tile_zero(3);
}

inline void load_rows(const char* x, std::ptrdiff_t stride) { _tile_loadd(4, x, stride); }

template <int gates>
inline void multiply(const Bf16* w) {
  _tile_loadd(5, w, 64);
  _tile_dpbf16ps(0, 4, 5);
  if constexpr (gates > 1) {
    _tile_loadd(6, w + 512, 64);
    _tile_dpbf16ps(1, 4, 6);
  }
  if constexpr (gates > 2) {
    _tile_loadd(5, w + 1024, 64);
    _tile_dpbf16ps(2, 4, 5);
  }
  if constexpr (gates > 3) {
    _tile_loadd(6, w + 1536, 64);
    _tile_dpbf16ps(3, 4, 6);
  }
}

template <int gates>
inline void store_sums(float* out, std::ptrdiff_t stride) {
  _tile_stored(0, out, stride);
  if constexpr (gates > 1) _tile_stored(1, out + 16, stride);
  if constexpr (gates > 2) _tile_stored(2, out + 32, stride);
  if constexpr (gates > 3) _tile_stored(3, out + 48, stride);
}

#else

struct TileUnit {
  int rows = 0;
  float sums[4][16][16];
  Bf16 x[16][32];
};
thread_local TileUnit unit;

inline void configure(int rows) { unit.rows = rows; }

template <int gates>
inline void zero() {
  std::memset(unit.sums, 0, gates * sizeof unit.sums[0]);
}

inline void load_rows(const char* x, std::ptrdiff_t stride) {
  for (int row = 0; row < unit.rows; ++row) std::memcpy(unit.x[row], x + row * stride, sizeof unit.x[row]);
}

template <int gates>
inline void multiply(const Bf16* w) {
  for (int gate = 0; gate < gates; ++gate, w += 512)
    for (int row = 0; row < unit.rows; ++row)
      for (int n = 0; n < 16; ++n) {
        // the even columns and the odd ones are added up apart
        float even = 0, odd = 0;
        for (int pair = 0; pair < 16; ++pair) {
          even += value(unit.x[row][2 * pair]) * value(w[(pair * 16 + n) * 2]);
          odd += value(unit.x[row][2 * pair + 1]) * value(w[(pair * 16 + n) * 2 + 1]);
        }
        unit.sums[gate][row][n] += even + odd;
      }
}

template <int gates>
inline void store_sums(float* out, std::ptrdiff_t stride) {
  for (int gate = 0; gate < gates; ++gate)
    for (int row = 0; row < unit.rows; ++row)
      std::memcpy(reinterpret_cast<char*>(out + gate * 16) + row * stride, unit.sums[gate][row], 64);
}

#endif

}  // namespace
}  // namespace lstmserve
