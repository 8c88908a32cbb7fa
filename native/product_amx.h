// Products of bfloat16 tiles with float32 sums (AMX): 16 rows x 32 columns times 32 columns x 16 units an instruction.
//
// Intel 64 and IA-32 Architectures Software Developer's Manual, volume 1, chapter 18, and TDPBF16PS in volume 2.
#pragma once

#include "product_bf16.h"
#include "tile_unit.h"

namespace lstmserve {
namespace {

struct AmxKernel {
  using Element = Bf16;
  using Row = Half;

  static constexpr int kTileColumns = 32;
  static constexpr int kTile = kTileColumns * kBlock;

  // [blocks][columns / 32][gates][16 pairs of columns][16 units][2 columns]: a tile is 1 KiB in one piece
  static std::size_t offset(int gates, int columns, int block, int column, int gate, int unit) {
    const std::size_t tile = static_cast<std::size_t>(block) * (columns / kTileColumns) + column / kTileColumns;
    return (tile * gates + gate) * kTile + (column % kTileColumns / 2 * kBlock + unit) * 2 + column % 2;
  }

  // Up to 16 rows are tiles of just that height; more are filled up to a multiple of 16.
  static void begin(int rows) { configure(rows < kRowAlign ? rows : kRowAlign); }

  template <int gates>
  static void block(const Bf16* matrix, int columns, const char* x, std::ptrdiff_t stride, int rows, float* out) {
    for (int row = 0; row < rows; row += kRowAlign) {
      zero<gates>();
      for (int column = 0; column < columns; column += kTileColumns) {
        load_rows(x + row * stride + column * sizeof(Bf16), stride);
        multiply<gates>(matrix + static_cast<std::size_t>(column) * gates * kBlock);
      }
      store_sums<gates>(out + row * gates * kBlock, gates * kBlock * sizeof(float));
    }
  }
};

}  // namespace
}  // namespace lstmserve
