// Sixteen lanes at a time: the vocabulary in which every kernel of this folder is written.
//
// The same sources are compiled once per instruction set into shared objects of their own, so that no inline function compiled
// for one machine can be linked into another's. Each header below defines, in namespace fathom:
//   F32, I32, U8       sixteen floats, sixteen 32-bit integers, sixty-four bytes (= 16 rows x 4 consecutive columns)
//   dot(acc, w, x)     acc[row] += sum over four columns of w[row][column] * x[column], w as kBiasedBytes says, x int8
//   dot_bf16           the same for sixteen rows of two bfloat16 columns
//   kTileRows          how many rows a matrix tile of the processor takes (AMX); 0: it has none
//   kRowTile           how many activation rows share one load of the weights (bounded by the number of registers)
#pragma once
#include <cstddef>
#include <cstdint>
#include <cstring>

namespace fathom {

inline constexpr int kLanes = 16;

inline uint16_t bf16_from(float value) {
  uint32_t bits;
  std::memcpy(&bits, &value, 4);
  if ((bits & 0x7fffffff) > 0x7f800000) return uint16_t((bits >> 16) | 64);  // a NaN must not round to infinity
  return uint16_t((bits + 0x7fff + ((bits >> 16) & 1)) >> 16);               // round to nearest, ties to even
}

inline float float_from_bf16(uint16_t value) {
  uint32_t bits = uint32_t(value) << 16;
  float result;
  std::memcpy(&result, &bits, 4);
  return result;
}

inline float float_from_f16(uint16_t half) {
  uint32_t sign = uint32_t(half & 0x8000) << 16, exponent = (half >> 10) & 31, fraction = half & 0x3ff, bits;
  if (exponent == 31) {
    bits = sign | 0x7f800000 | fraction << 13;
  } else if (exponent) {
    bits = sign | (exponent + 112) << 23 | fraction << 13;
  } else {  // zero or subnormal: fraction * 2^-24 is exact in float
    float magnitude = float(fraction) * 0x1p-24f;
    std::memcpy(&bits, &magnitude, 4);
    bits |= sign;
  }
  float result;
  std::memcpy(&result, &bits, 4);
  return result;
}

inline int32_t four_bytes(const void* p) {
  int32_t value;
  std::memcpy(&value, p, 4);
  return value;
}

}  // namespace fathom

#if defined(FATHOM_AVX512)
#include "simd_avx512.h"
#elif defined(FATHOM_AVX2)
#include "simd_avx2.h"
#else
#include "simd_portable.h"
#endif

namespace fathom {

// 2^x by Cody-Waite reduction to [-0.5, 0.5] and a Taylor polynomial of degree 6 (relative error below 2e-7).
inline F32 exp2(F32 x) {
  x = max(x, F32::set(-126.0f));
  F32 whole = round_to_integer(x), rest = x - whole;
  F32 sum = F32::set(1.5403530e-4f);
  for (float coefficient : {1.3333558e-3f, 9.6181291e-3f, 5.5504109e-2f, 2.4022651e-1f, 6.9314718e-1f, 1.0f})
    sum = fma(sum, rest, F32::set(coefficient));
  return times_power_of_two(sum, whole);
}

inline F32 silu(F32 x) {
  F32 limit = F32::set(126.0f);  // keeps 2^-x finite; beyond it silu(x) is zero in float anyway
  F32 exponent = min(x * F32::set(-1.44269504f), limit);
  return x / (F32::set(1.0f) + exp2(exponent));
}

}  // namespace fathom
