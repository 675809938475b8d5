// Dot products of weights as stored with activations: int8 in groups of 32 for quantised weights (as llama.cpp does),
// bfloat16 for bfloat16, float32 for the rest. Sums are float32.
//
// A row's result is the same bits however many rows share the call: integer sums are exact, and the floating-point sums over
// groups run in the same order for every tile size. Serving relies on it (an answer does not depend on its neighbours).
#include <algorithm>
#include <cmath>
#include <utility>

#include "matrix.h"
#include "simd.h"

#if !defined(FATHOM_AVX2) && !defined(FATHOM_AVX512)
#define FATHOM_UNROLL
#elif defined(__clang__)
#define FATHOM_UNROLL _Pragma("unroll")
#else
#define FATHOM_UNROLL _Pragma("GCC unroll 16")
#endif

namespace fathom {
namespace {

// One row streams its weights, which the processor's own prefetching does best alone; for several rows arithmetic takes longer
// than the lines that it has asked for last.
constexpr int kPrefetchRows = 4;

// Calls f with the compile-time constants 0..N-1.
template <int N, class Function>
[[gnu::always_inline]] inline void repeat(Function f) {
  [&]<int... I>(std::integer_sequence<int, I...>) __attribute__((always_inline)) {
    (f(std::integral_constant<int, I>{}), ...);
  }(std::make_integer_sequence<int, N>{});
}

// Vector I of a group's codes (planes: formats.h).
template <int Bits, int I>
inline U8 codes(const uint8_t* group) {
  if constexpr (Bits == 8) return U8::load(group + I * 64);
  constexpr int nibble_bytes = Bits >= 4 ? 256 : 0, pair_bytes = Bits == 2 || Bits == 3 || Bits == 6 ? 128 : 0;
  U8 result = U8::set(0);
  if constexpr (Bits >= 4) result = shift_bits<-(I % 2 * 4)>(U8::load(group + I / 2 * 64)) & U8::set(15);
  if constexpr (pair_bytes > 0) {
    constexpr int to = Bits == 6 ? 4 : 0;
    U8 pairs = U8::load(group + nibble_bytes + I / 4 * 64);
    result = result | (shift_bits<to - I % 4 * 2>(pairs) & U8::set(3 << to));
  }
  if constexpr (Bits % 2 == 1) {
    U8 ones = U8::load(group + nibble_bytes + pair_bytes);
    result = result | (shift_bits<Bits - 1 - I>(ones) & U8::set(1 << (Bits - 1)));
  }
  return result;
}

template <class Format>
inline F32 scales_of(const uint8_t* scales, const uint8_t* super, int half) {
  if constexpr (!Format::kSuper) return F32::load_f16(scales);
  else if constexpr (Format::kScales == Scales::kSuper16) return F32::load_f16(super) * F32::load_i8(scales + half * 16);
  else return F32::load_f16(super) * F32::load_u8(scales + half * 16);
}

template <class Format>
inline F32 minima_of(const uint8_t* scales, const uint8_t* super, int half) {
  if constexpr (!Format::kSuper) return F32::load_f16(scales + 32);
  else return F32::zero() - F32::load_f16(super + 32) * F32::load_u8(scales + Format::kOneScale + half * 16);
}

constexpr int log2_of(int n) { return n <= 1 ? 0 : 1 + log2_of(n / 2); }

inline int32_t negative_half(const GroupScale& of, int half) {
  return half == 0 ? of.negative_first_sum : int32_t(uint32_t(of.negative_sum) - uint32_t(of.negative_first_sum));
}

// The integer accumulator starts at -offset * sum of the activations, which makes codes out of values for free.
template <class Format>
inline I32 start(const GroupScale& of, int half) {
  if constexpr (Format::kOffset == 0 || (Format::kBits == 8 && !kBiasedBytes)) return I32::zero();
  return shift_left<log2_of(Format::kOffset)>(I32::set(Format::kHalves == 1 ? of.negative_sum : negative_half(of, half)));
}

template <class Format>
inline float scaled_sum(const GroupScale& of, int half) {
  if constexpr (Format::kHalves == 1) return of.scaled_sum;
  return -of.scale * float(negative_half(of, half));
}

template <class Format, int Rows>
void dot_quantised(const uint8_t* block, int groups, const Activations& x, int first, float* out) {
  constexpr int vectors = 8 / Format::kHalves;
  const int64_t columns = x.columns, scale_stride = x.columns / kGroup;
  const int8_t* code_rows = x.codes + first * columns;
  const GroupScale* scale_rows = x.scales + first * scale_stride;
  const uint8_t* super = block;
  F32 sums[Rows];
  FATHOM_UNROLL for (int m = 0; m < Rows; m++) sums[m] = F32::zero();
  for (int g = 0; g < groups; g++, block += Format::kGroupBytes) {
    if constexpr (Format::kSuper) {
      if (g % kSuperGroups == 0) super = block, block += Format::kSuperBytes;
    }
    const uint8_t* scales = block + Format::kCodeBytes;
    if constexpr (Rows >= kPrefetchRows)
      repeat<(Format::kGroupBytes + 63) / 64>([&](auto i) { prefetch(block + kPrefetch + i * 64); });
    repeat<Format::kHalves>([&](auto half) __attribute__((always_inline)) {
      I32 acc[Rows];
      FATHOM_UNROLL for (int m = 0; m < Rows; m++) acc[m] = start<Format>(scale_rows[m * scale_stride + g], half);
      repeat<vectors>([&](auto i) __attribute__((always_inline)) {
        constexpr int vector = half * vectors + i;
        U8 w = codes<Format::kBits, vector>(block);
        FATHOM_UNROLL for (int m = 0; m < Rows; m++) {
          const int8_t* four = code_rows + m * columns + g * kGroup + vector * 4;
          acc[m] = Format::kBits == 8 ? dot_bytes(acc[m], w, four) : dot_small(acc[m], w, four);
        }
      });
      F32 scale = scales_of<Format>(scales, super, half);
      FATHOM_UNROLL for (int m = 0; m < Rows; m++)
        sums[m] = fma(to_float(acc[m]) * scale, F32::set(scale_rows[m * scale_stride + g].scale), sums[m]);
      if constexpr (Format::kMinimum) {
        F32 minimum = minima_of<Format>(scales, super, half);
        FATHOM_UNROLL for (int m = 0; m < Rows; m++)
          sums[m] = fma(minimum, F32::set(scaled_sum<Format>(scale_rows[m * scale_stride + g], half)), sums[m]);
      }
    });
  }
  FATHOM_UNROLL for (int m = 0; m < Rows; m++) sums[m].store(out + m * kLanes);
}

// Two sums a row (even and odd columns or pairs), since one chain of additions would wait for itself.
template <Type Which, int Rows>
void dot_columns(const uint8_t* block, int columns, const Activations& x, int first, float* out) {
  F32 sums[Rows][2];
  FATHOM_UNROLL for (int m = 0; m < Rows; m++) sums[m][0] = sums[m][1] = F32::zero();
  constexpr int step = Which == Type::BF16 ? 2 : 1;  // columns a vector holds
  constexpr int bytes = Floating<Which>::kBytes * kLanes * step;
  for (int k = 0; k < columns; k += 2 * step, block += 2 * bytes) {
    if constexpr (Rows >= kPrefetchRows) repeat<2 * bytes / 64>([&](auto i) { prefetch(block + kPrefetch + i * 64); });
    FATHOM_UNROLL for (int odd = 0; odd < 2; odd++) {
      const uint8_t* w = block + odd * bytes;
      FATHOM_UNROLL for (int m = 0; m < Rows; m++) {
        int64_t at = int64_t(first + m) * x.columns + k + odd * step;
        if constexpr (Which == Type::BF16) sums[m][odd] = dot_bf16(sums[m][odd], (const uint16_t*)w, x.bf16 + at);
        else if constexpr (Which == Type::F16) sums[m][odd] = fma(F32::load_f16(w), F32::set(x.values[at]), sums[m][odd]);
        else sums[m][odd] = fma(F32::load((const float*)w), F32::set(x.values[at]), sums[m][odd]);
      }
    }
  }
  FATHOM_UNROLL for (int m = 0; m < Rows; m++) (sums[m][0] + sums[m][1]).store(out + m * kLanes);
}

template <Type Which, int Rows>
void dot_floating(const uint8_t* block, int groups, const Activations& x, int first, float* out) {
  dot_columns<Which, Rows>(block, groups * kGroup, x, first, out);
}

template <int Bits, int Offset, Scales Kind>
Kernel vector_kernel(Quantised<Bits, Offset, Kind>) {
  using Format = Quantised<Bits, Offset, Kind>;
  constexpr int two = std::min(2, kRowTile), four = std::min(4, kRowTile);
  return {{dot_quantised<Format, 1>, dot_quantised<Format, two>, dot_quantised<Format, four>, dot_quantised<Format, kRowTile>}, kInt8};
}

template <Type Which>
Kernel vector_kernel(Floating<Which>) {
  constexpr int two = std::min(2, kRowTile), four = std::min(4, kRowTile);
  return {{dot_floating<Which, 1>, dot_floating<Which, two>, dot_floating<Which, four>, dot_floating<Which, kRowTile>},
          Which == Type::BF16 ? kBF16 : kFloat,
          {dot_columns<Which, 1>, dot_columns<Which, two>, dot_columns<Which, four>, dot_columns<Which, kRowTile>}};
}

// int8 codes for 32 values: scale = largest magnitude / 127.
void quantise_group(const float* x, int8_t* codes, GroupScale& to) {
  F32 low = F32::load(x), high = F32::load(x + 16);
  float largest = maximum(max(absolute(low), absolute(high)));
  F32 inverse = F32::set(largest > 0 ? 127.0f / largest : 0.0f);
  low = low * inverse, high = high * inverse;
  store_i8(codes, low), store_i8(codes + 16, high);
  // Unsigned, since a NaN's code is the least integer: the sums then wrap, and represent() makes the scale a NaN.
  const uint32_t first = uint32_t(sum_rounded(low)), all = first + uint32_t(sum_rounded(high));
  const float scale = largest / 127.0f;
  to = {scale, scale * float(int32_t(all)), int32_t(0 - all), int32_t(0 - first)};
}

// int8 has no NaN: a row that holds one, or an infinity, carries it in its scales.
void quantise_row(const float* x, int width, int8_t* codes, GroupScale* scales) {
  F32 probe = F32::zero();
  for (int k = 0; k < width; k += kGroup) {
    quantise_group(x + k, codes + k, scales[k / kGroup]);
    probe = fma(F32::load(x + k), F32::zero(), fma(F32::load(x + k + kLanes), F32::zero(), probe));
  }
  if (sum(probe) == 0) return;
  for (int g = 0; g < width / kGroup; g++) scales[g].scale = scales[g].scaled_sum = NAN;
}

}  // namespace

#ifdef FATHOM_AMX
}  // namespace fathom
#include "dot_amx.h"
namespace fathom {
#endif

const Kernel& kernel(Type type) {
  const Kernel* result = nullptr;
  with_format(type, [&](auto format) {
    static const Kernel own = [&] {
      Kernel kernel = vector_kernel(format);
#ifdef FATHOM_AMX
      if (kTilesGranted) use_tiles(kernel, format);
#endif
      return kernel;
    }();
    result = &own;
  });
  return *result;
}

void OwnActivations::reserve(int rows, int max_columns) {
  size_t elements = size_t(rows) * size_t(round_up(max_columns, kGroup)), scale_bytes = elements / kGroup * sizeof(GroupScale);
  memory_.reserve(elements * (1 + 2 + 4) + scale_bytes + 256);
  uint8_t* p = memory_.as<uint8_t>();
  values = (float*)p, p += elements * 4;
  scales = (GroupScale*)p, p += scale_bytes;
  bf16 = (uint16_t*)p, p += elements * 2;
  codes = (int8_t*)p;
}

void Activations::represent(int row, int width, const float* x, int needs) {
  const int64_t at = int64_t(row) * width;
  if (needs & kInt8) quantise_row(x, width, codes + at, scales + at / kGroup);
  if (needs & kBF16)
    for (int k = 0; k < width; k += kLanes) store_bf16(bf16 + at + k, F32::load(x + k));
  if (needs & kFloat && x != values + at) std::memcpy(values + at, x, size_t(width) * 4);
}

}  // namespace fathom
