// Low-rank adapters (Hu et al. 2021, section 4.1): y += scale * up (down x), beside weights that stay as they are.
#pragma once
#include <vector>

#include "matrix.h"
#include "simd.h"

namespace fathom {

struct LowRank {
  Matrix down, up;  // [rank, columns], [rows, rank]; BF16 or F32
  int rank = 0;     // 0: absent
  float scale = 0;
};

// A term for every layer and role that it has one for, in memory of its own, so that it goes as it came.
struct Adapter {
  Arena memory;
  std::vector<LowRank> terms;
  int rank = 0;   // the largest
  int needs = 0;  // what `down` asks of the activations
};

// What the adapters of a step's rows add to one product, once `down x` is at hand.
struct Additions {
  const Adapter* const* adapters = nullptr;  // of every row, null for rows without one; null itself: no row has one
  size_t term = 0;
  const Activations* inner = nullptr;  // down x of every row

  explicit operator bool() const { return adapters != nullptr; }
  const LowRank* of(int row) const { return term_of(adapters[row]); }
  const LowRank* term_of(const Adapter* adapter) const {
    return adapter && adapter->terms[term].rank ? &adapter->terms[term] : nullptr;
  }
  // out[i][16] += the terms of rows first.. for one block of the product; 2^tile rows. The bits do not depend on the tile.
  void add(int block, int first, int tile, float* out) const {
    const LowRank* shared = of(first);
    for (int i = 1; i < 1 << tile; i++)
      if (of(first + i) != shared) return add_each(block, first, tile, out);
    if (shared) add_term(*shared, block, first, tile, out);
  }

 private:
  void add_each(int block, int first, int tile, float* out) const {
    for (int i = 0; i < 1 << tile; i++)
      if (const LowRank* own = of(first + i)) add_term(*own, block, first + i, 0, out + i * kLanes);
  }
  void add_term(const LowRank& own, int block, int first, int tile, float* out) const {
    alignas(64) float more[kRowTile * kLanes];
    own.up.kernel->narrow[tile](own.up.block(block), round_up(own.rank, 4), *inner, first, more);
    for (int i = 0; i < 1 << tile; i++, out += kLanes) fma(F32::load(more + i * kLanes), F32::set(own.scale), F32::load(out)).store(out);
  }
};

}  // namespace fathom
