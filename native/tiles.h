// Walks over rows in tiles of nearly equal height.
#pragma once

#include <cstddef>
#include <type_traits>

#include "path.h"

namespace lstmserve {
namespace {

template <int height, class Tile>
inline void with_height(int rows, int first, Tile tile) {
  if constexpr (height > 0) {
    if (rows == height) return tile(std::integral_constant<int, height>{}, first);
    with_height<height - 1>(rows, first, tile);
  }
}

// Calls tile(height, first row) with heights from 1 to `most`, as constants.
template <int most, class Tile>
inline void tiles(int rows, Tile tile) {
  for (int first = 0; first < rows;) {
    const int left = rows - first, number = (left + most - 1) / most, height = (left + number - 1) / number;
    with_height<most>(height, first, tile);
    first += height;
  }
}

}  // namespace
}  // namespace lstmserve
