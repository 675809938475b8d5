// The same dot products on AMX tiles, 16 rows of activations at once. Included by dot.cpp, whose vocabulary it uses.
//
// A block's codes of a group, "vector i" after "vector i", are a tile of 8 rows of 64 bytes as the tile product wants them, and
// so are 32 columns of bfloat16. Integer sums are exact and the floating-point steps after them are those of dot_quantised, so
// quantised weights give the bits of the vector path, which still takes what 16 does not divide. bfloat16 sums have an order of
// their own (32 columns: even ones, odd ones, then both): there all numbers of rows go through tiles.
#pragma once
#include <sys/syscall.h>
#include <unistd.h>

#include <vector>

namespace fathom {
namespace {

// Linux lends the tiles' registers to a process that asks (since 5.16).
const bool kTilesGranted = syscall(SYS_arch_prctl, 0x1023 /* ARCH_REQ_XCOMP_PERM */, 18 /* XTILEDATA */) == 0;

struct alignas(64) TileShapes {
  uint8_t palette = 1, start_row = 0, reserved[14] = {};
  uint16_t row_bytes[16] = {};
  uint8_t rows[16] = {};

  TileShapes& set(int tile, int its_rows, int its_row_bytes) {
    rows[tile] = uint8_t(its_rows), row_bytes[tile] = uint16_t(its_row_bytes);
    return *this;
  }
};

// The block's codes as bytes, all groups behind one another; of 8-bit formats they lie so already, only further apart.
template <class Format>
const uint8_t* plain_codes(const uint8_t* block, int groups) {
  if constexpr (Format::kBits == 8) return block;
  static thread_local std::vector<uint8_t> bytes;
  if (bytes.size() < size_t(groups) * 512 + 64) bytes.resize(size_t(groups) * 512 + 64);
  uint8_t* to = bytes.data() + (64 - uintptr_t(bytes.data()) % 64) % 64;
  for (int g = 0; g < groups; g++) {
    const uint8_t* group = block + Format::group_offset(g);
    repeat<8>([&](auto i) { _mm512_store_si512(to + g * 512 + i * 64, codes<Format::kBits, i>(group).v); });
  }
  return to;
}

// What a group adds to the sums of 16 rows, as dot_quantised does it. `of` is the first row's, the others follow by the stride:
// four rows from each of four places, since sixteen addresses would not fit into the registers.
template <class Format, int Half>
[[gnu::always_inline]] inline void add_group(F32* sums, const int32_t (*products)[kLanes], const GroupScale* of, int64_t stride, F32 scale, F32 minimum) {
  repeat<4>([&](auto quarter) __attribute__((always_inline)) {
    repeat<4>([&](auto i) __attribute__((always_inline)) {
      constexpr int m = quarter * 4 + i;
      const GroupScale& own = of[i * stride];
      I32 acc{_mm512_load_si512(products[m])};
      if constexpr (Format::kOffset != 0) acc.v = _mm512_add_epi32(acc.v, start<Format>(own, Half).v);
      sums[m] = fma(to_float(acc) * scale, F32::set(own.scale), sums[m]);
      if constexpr (Format::kMinimum) sums[m] = fma(minimum, F32::set(scaled_sum<Format>(own, Half)), sums[m]);
    });
    of += 4 * stride;
  });
}

template <class Format>
void dot_quantised_tiles(const uint8_t* block, int groups, const Activations& x, int first, int count, float* out) {
  constexpr int halves = Format::kHalves, stride = Format::kBits == 8 ? Format::kGroupBytes : 512;
  static const TileShapes shapes = TileShapes().set(0, 16, 64).set(1, 16, 32 / halves).set(2, 8 / halves, 64);
  const uint8_t* bytes = plain_codes<Format>(block, groups);
  const int64_t columns = x.columns, scale_stride = columns / kGroup;
  alignas(64) int32_t products[2][halves][kTileRows][kLanes];
  __asm__ volatile("" ::: "memory");  // GCC's tile loads do not say that they read memory
  _tile_loadconfig(&shapes);
  for (int tile = 0; tile < count; tile += kTileRows, out += kTileRows * kLanes) {
    const int8_t* code_rows = x.codes + (first + tile) * columns;
    const GroupScale* of = x.scales + (first + tile) * scale_stride;
    auto multiply_group = [&](int g) __attribute__((always_inline)) {
      repeat<halves>([&](auto half) __attribute__((always_inline)) {
        _tile_zero(0);
        _tile_loadd(1, code_rows + g * kGroup + half * 16, columns);
        _tile_loadd(2, bytes + int64_t(g) * stride + half * 256, 64);
        _tile_dpbsud(0, 1, 2);
        _tile_stored(0, products[g % 2][half], 64);
      });
    };
    F32 sums[kTileRows];
    FATHOM_UNROLL for (int m = 0; m < kTileRows; m++) sums[m] = F32::zero();
    multiply_group(0);
    for (int g = 0; g < groups; g++) {
      if (g + 1 < groups) multiply_group(g + 1);  // while the one before is added: stored tiles are not at hand at once
      const uint8_t *scales = block + Format::group_offset(g) + Format::kCodeBytes, *super = block + Format::super_offset(g);
      repeat<halves>([&](auto half) __attribute__((always_inline)) {
        F32 scale = scales_of<Format>(scales, super, half), minimum = F32::zero();
        if constexpr (Format::kMinimum) minimum = minima_of<Format>(scales, super, half);
        add_group<Format, half>(sums, products[g % 2][half], of + g, scale_stride, scale, minimum);
      });
    }
    FATHOM_UNROLL for (int m = 0; m < kTileRows; m++) sums[m].store(out + m * kLanes);
  }
  _tile_release();
}

// Tiles * 16 rows, or fewer where the shapes say so. The tiles' names are part of the instructions, so no loop can number them.
template <int Tiles>
void dot_bf16_block(const uint8_t* block, int groups, const uint16_t* x, int64_t columns, float* out) {
  const int64_t rows = kTileRows * columns;
  _tile_zero(0);
  if constexpr (Tiles > 1) _tile_zero(1);
  if constexpr (Tiles > 2) _tile_zero(2);
  if constexpr (Tiles > 3) _tile_zero(3);
  for (int g = 0; g < groups; g++, block += 1024, x += kGroup) {
    _tile_loadd(7, block, 64);
    _tile_loadd(6, x, columns * 2);
    _tile_dpbf16ps(0, 6, 7);
    if constexpr (Tiles > 1) {
      _tile_loadd(5, x + rows, columns * 2);
      _tile_dpbf16ps(1, 5, 7);
    }
    if constexpr (Tiles > 2) {
      _tile_loadd(6, x + 2 * rows, columns * 2);
      _tile_dpbf16ps(2, 6, 7);
    }
    if constexpr (Tiles > 3) {
      _tile_loadd(5, x + 3 * rows, columns * 2);
      _tile_dpbf16ps(3, 5, 7);
    }
  }
  _tile_stored(0, out, 64);
  if constexpr (Tiles > 1) _tile_stored(1, out + kTileRows * kLanes, 64);
  if constexpr (Tiles > 2) _tile_stored(2, out + 2 * kTileRows * kLanes, 64);
  if constexpr (Tiles > 3) _tile_stored(3, out + 3 * kTileRows * kLanes, 64);
}

void dot_bf16_tiles(const uint8_t* block, int groups, const Activations& x, int first, int count, float* out) {
  static const TileShapes shapes = TileShapes().set(0, 16, 64).set(1, 16, 64).set(2, 16, 64).set(3, 16, 64).set(5, 16, 64).set(6, 16, 64).set(7, 16, 64);
  _tile_loadconfig(&shapes);
  for (int row = 0; row < count;) {
    const uint16_t* from = x.bf16 + int64_t(first + row) * x.columns;
    if (count - row >= 4 * kTileRows) {
      dot_bf16_block<4>(block, groups, from, x.columns, out + row * kLanes), row += 4 * kTileRows;
    } else if (count - row >= 2 * kTileRows) {
      dot_bf16_block<2>(block, groups, from, x.columns, out + row * kLanes), row += 2 * kTileRows;
    } else {
      dot_bf16_block<1>(block, groups, from, x.columns, out + row * kLanes), row += kTileRows;
    }
  }
  _tile_release();
}

template <int Rows>
void dot_bf16_few(const uint8_t* block, int groups, const Activations& x, int first, float* out) {
  static const TileShapes shapes = TileShapes().set(0, Rows, 64).set(6, Rows, 64).set(7, 16, 64);
  _tile_loadconfig(&shapes);
  dot_bf16_block<1>(block, groups, x.bf16 + int64_t(first) * x.columns, x.columns, out);
  _tile_release();
}

template <int Bits, int Offset, Scales Kind>
void use_tiles(Kernel& kernel, Quantised<Bits, Offset, Kind>) {
  kernel.many = dot_quantised_tiles<Quantised<Bits, Offset, Kind>>, kernel.many_rows = 64;
}

template <Type Which>
void use_tiles(Kernel& kernel, Floating<Which>) {
  if constexpr (Which == Type::BF16) {
    const DotTile few[4] = {dot_bf16_few<1>, dot_bf16_few<2>, dot_bf16_few<4>, dot_bf16_few<8>};
    std::copy(few, few + 4, kernel.tiles);
    kernel.many = dot_bf16_tiles, kernel.many_rows = kTileRows;
  }
}

}  // namespace
}  // namespace fathom
