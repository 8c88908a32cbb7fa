// The 16-bit floating point formats; arithmetic is done on neither.
#pragma once

#include <cstdint>

namespace lstmserve {

// bfloat16: the upper half of a float32
struct Bf16 {
  std::uint16_t bits;
};

// IEEE 754 binary16
struct Half {
  std::uint16_t bits;
};

}  // namespace lstmserve
