// Products of activations with the blocks of a matrix, and how blocks are shared out over threads.
#pragma once
#include <algorithm>

#include "adapters.h"
#include "matrix.h"
#include "simd.h"

namespace fathom {

struct Range {
  int first, last;
};

inline Range share(int64_t n, int id, int threads) { return {int(n * id / threads), int(n * (id + 1) / threads)}; }

// Asks for the first weights of a share, to be called before waiting for the other threads.
inline void prefetch_start(const Matrix& w, Range blocks) {
  const uint8_t* start = w.block(blocks.first);
  for (int i = 0; i < kPrefetch; i += 64) prefetch(start + i);
}

// Activations of a pass over the weights stay in the second-level cache.
inline constexpr int kRowsPerPass = 192;

inline constexpr int kLastTile = 3;  // 2^3 = 8 rows, where kRowTile allows

// Runs rows [first, last) of x against one block of weights; write(row, F32 of its 16 outputs).
template <class Write>
inline void multiply_block(const Matrix& w, int block, const Activations& x, int first, int last, Write write, const Additions& more = {}) {
  const uint8_t* weights = w.block(block);
  int row = first;
  if constexpr (kTileRows > 0) {
    alignas(64) float out[kRowsPerPass * kLanes];
    while (w.kernel->many && last - row >= w.kernel->many_rows) {
      const int count = std::min(last - row, kRowsPerPass) / kTileRows * kTileRows;
      w.kernel->many(weights, w.groups, x, row, count, out);
      for (int i = 0; more && i < count; i += kRowTile) more.add(block, row + i, kLastTile, out + i * kLanes);
      for (int i = 0; i < count; i++) write(row + i, F32::load(out + i * kLanes));
      row += count;
    }
  }
  alignas(64) float out[kRowTile * kLanes];
  while (row < last) {
    int tile = kLastTile;
    while ((1 << tile) > std::min(last - row, kRowTile)) tile--;
    w.kernel->tiles[tile](weights, w.groups, x, row, out);
    if (more) more.add(block, row, tile, out);
    for (int i = 0; i < 1 << tile; i++) write(row + i, F32::load(out + i * kLanes));
    row += 1 << tile;
  }
}

// Runs rows [0, rows) of x against the blocks; write(row, block, F32).
template <class Write>
inline void multiply(const Matrix& w, Range blocks, const Activations& x, int rows, Write write, const Additions& more = {}) {
  for (int first = 0; first < rows; first += kRowsPerPass)
    for (int block = blocks.first; block < blocks.last; block++)
      multiply_block(w, block, x, first, std::min(rows, first + kRowsPerPass), [&](int row, F32 v) { write(row, block, v); }, more);
}

}  // namespace fathom
