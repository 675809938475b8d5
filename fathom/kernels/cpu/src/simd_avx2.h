// AVX2 with FMA and F16C: sixteen lanes are two registers. Included by simd.h.
#pragma once
#include <immintrin.h>

namespace fathom {

inline constexpr int kRowTile = 4;
inline constexpr int kTileRows = 0;
inline constexpr bool kBiasedBytes = false;
inline constexpr const char* kVariant = "avx2";

struct F32 {
  __m256 a, b;
  static F32 zero() { return {_mm256_setzero_ps(), _mm256_setzero_ps()}; }
  static F32 set(float x) { return {_mm256_set1_ps(x), _mm256_set1_ps(x)}; }
  static F32 load(const float* p) { return {_mm256_loadu_ps(p), _mm256_loadu_ps(p + 8)}; }
  static F32 load_f16(const void* p) {
    return {_mm256_cvtph_ps(_mm_loadu_si128((const __m128i*)p)), _mm256_cvtph_ps(_mm_loadu_si128((const __m128i*)p + 1))};
  }
  static F32 load_u8(const void* p) {
    __m128i bytes = _mm_loadu_si128((const __m128i*)p);
    return {_mm256_cvtepi32_ps(_mm256_cvtepu8_epi32(bytes)), _mm256_cvtepi32_ps(_mm256_cvtepu8_epi32(_mm_srli_si128(bytes, 8)))};
  }
  static F32 load_i8(const void* p) {
    __m128i bytes = _mm_loadu_si128((const __m128i*)p);
    return {_mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(bytes)), _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_srli_si128(bytes, 8)))};
  }
  void store(float* p) const { _mm256_storeu_ps(p, a), _mm256_storeu_ps(p + 8, b); }
  void store_first(float* p, int n) const {
    float all[16];
    store(all);
    std::memcpy(p, all, size_t(n) * 4);
  }
};
inline F32 operator+(F32 x, F32 y) { return {_mm256_add_ps(x.a, y.a), _mm256_add_ps(x.b, y.b)}; }
inline F32 operator-(F32 x, F32 y) { return {_mm256_sub_ps(x.a, y.a), _mm256_sub_ps(x.b, y.b)}; }
inline F32 operator*(F32 x, F32 y) { return {_mm256_mul_ps(x.a, y.a), _mm256_mul_ps(x.b, y.b)}; }
inline F32 operator/(F32 x, F32 y) { return {_mm256_div_ps(x.a, y.a), _mm256_div_ps(x.b, y.b)}; }
inline F32 fma(F32 x, F32 y, F32 z) { return {_mm256_fmadd_ps(x.a, y.a, z.a), _mm256_fmadd_ps(x.b, y.b, z.b)}; }
inline F32 max(F32 x, F32 y) { return {_mm256_max_ps(x.a, y.a), _mm256_max_ps(x.b, y.b)}; }
inline F32 min(F32 x, F32 y) { return {_mm256_min_ps(x.a, y.a), _mm256_min_ps(x.b, y.b)}; }
inline F32 absolute(F32 x) {
  __m256 sign = _mm256_set1_ps(-0.0f);
  return {_mm256_andnot_ps(sign, x.a), _mm256_andnot_ps(sign, x.b)};
}
inline float sum(F32 x) {
  __m256 eight = _mm256_add_ps(x.a, x.b);
  __m128 four = _mm_add_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps(eight, 1));
  __m128 two = _mm_add_ps(four, _mm_movehl_ps(four, four));
  return _mm_cvtss_f32(_mm_add_ss(two, _mm_movehdup_ps(two)));
}
inline float maximum(F32 x) {
  __m256 eight = _mm256_max_ps(x.a, x.b);
  __m128 four = _mm_max_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps(eight, 1));
  __m128 two = _mm_max_ps(four, _mm_movehl_ps(four, four));
  return _mm_cvtss_f32(_mm_max_ss(two, _mm_movehdup_ps(two)));
}
inline F32 keep_first(F32 x, int n, float fill) {
  __m256 count = _mm256_set1_ps(float(n)), other = _mm256_set1_ps(fill), lane = _mm256_setr_ps(0, 1, 2, 3, 4, 5, 6, 7);
  __m256 low = _mm256_cmp_ps(lane, count, _CMP_LT_OQ);
  __m256 high = _mm256_cmp_ps(_mm256_add_ps(lane, _mm256_set1_ps(8)), count, _CMP_LT_OQ);
  return {_mm256_blendv_ps(other, x.a, low), _mm256_blendv_ps(other, x.b, high)};
}
inline F32 round_to_integer(F32 x) { return {_mm256_round_ps(x.a, 8), _mm256_round_ps(x.b, 8)}; }  // nearest even
inline __m256 times_power_of_two(__m256 x, __m256 whole) {
  __m256i exponent = _mm256_slli_epi32(_mm256_cvtps_epi32(whole), 23);
  return _mm256_castsi256_ps(_mm256_add_epi32(_mm256_castps_si256(x), exponent));
}
inline F32 times_power_of_two(F32 x, F32 whole) { return {times_power_of_two(x.a, whole.a), times_power_of_two(x.b, whole.b)}; }

struct I32 {
  __m256i a, b;
  static I32 zero() { return {_mm256_setzero_si256(), _mm256_setzero_si256()}; }
  static I32 set(int32_t x) { return {_mm256_set1_epi32(x), _mm256_set1_epi32(x)}; }
};
template <int N>
inline I32 shift_left(I32 x) { return {_mm256_slli_epi32(x.a, N), _mm256_slli_epi32(x.b, N)}; }
inline F32 to_float(I32 x) { return {_mm256_cvtepi32_ps(x.a), _mm256_cvtepi32_ps(x.b)}; }

struct U8 {
  __m256i a, b;
  static U8 set(int x) { return {_mm256_set1_epi8(char(x)), _mm256_set1_epi8(char(x))}; }
  static U8 load(const void* p) {
    return {_mm256_loadu_si256((const __m256i*)p), _mm256_loadu_si256((const __m256i*)p + 1)};
  }
};
inline U8 operator&(U8 x, U8 y) { return {_mm256_and_si256(x.a, y.a), _mm256_and_si256(x.b, y.b)}; }
inline U8 operator|(U8 x, U8 y) { return {_mm256_or_si256(x.a, y.a), _mm256_or_si256(x.b, y.b)}; }
// Shifts move bits across the two bytes of a word: the caller masks.
template <int N>
inline U8 shift_bits(U8 x) {
  if constexpr (N > 0) return {_mm256_slli_epi16(x.a, N), _mm256_slli_epi16(x.b, N)};
  else if constexpr (N < 0) return {_mm256_srli_epi16(x.a, -N), _mm256_srli_epi16(x.b, -N)};
  else return x;
}

inline __m256i add_pairs(__m256i acc, __m256i unsigned_bytes, __m256i signed_bytes) {
  __m256i pairs = _mm256_maddubs_epi16(unsigned_bytes, signed_bytes);
  return _mm256_add_epi32(acc, _mm256_madd_epi16(pairs, _mm256_set1_epi16(1)));
}
// w below 128: pairs of products stay below 2 * 127 * 127 < 2^15, so the saturating 16-bit sum is exact.
inline I32 dot_small(I32 acc, U8 w, const int8_t* x) {
  __m256i four = _mm256_set1_epi32(four_bytes(x));
  return {add_pairs(acc.a, w.a, four), add_pairs(acc.b, w.b, four)};
}
// w = value + 128: |value| * (x with value's sign) keeps the pairs within 2 * 128 * 127 < 2^15.
inline I32 dot_bytes(I32 acc, U8 w, const int8_t* x) {
  __m256i flip = _mm256_set1_epi8(char(0x80)), four = _mm256_set1_epi32(four_bytes(x));
  __m256i low = _mm256_xor_si256(w.a, flip), high = _mm256_xor_si256(w.b, flip);
  return {add_pairs(acc.a, _mm256_abs_epi8(low), _mm256_sign_epi8(four, low)),
          add_pairs(acc.b, _mm256_abs_epi8(high), _mm256_sign_epi8(four, high))};
}
inline __m256 dot_bf16(__m256 acc, __m256i weights, __m256i pair) {
  __m256i high = _mm256_set1_epi32(int(0xffff0000u));
  __m256 even = _mm256_fmadd_ps(_mm256_castsi256_ps(_mm256_slli_epi32(weights, 16)),
                                _mm256_castsi256_ps(_mm256_slli_epi32(pair, 16)), acc);
  return _mm256_fmadd_ps(_mm256_castsi256_ps(_mm256_and_si256(weights, high)),
                         _mm256_castsi256_ps(_mm256_and_si256(pair, high)), even);
}
inline F32 dot_bf16(F32 acc, const uint16_t* w, const uint16_t* x) {
  __m256i pair = _mm256_set1_epi32(four_bytes(x));
  return {dot_bf16(acc.a, _mm256_loadu_si256((const __m256i*)w), pair),
          dot_bf16(acc.b, _mm256_loadu_si256((const __m256i*)w + 1), pair)};
}
inline void store_bf16(uint16_t* p, F32 x) {
  float all[16];
  x.store(all);
  for (int i = 0; i < 16; i++) p[i] = bf16_from(all[i]);
}

inline void store_i8(int8_t* p, F32 x) {
  __m256i words = _mm256_packs_epi32(_mm256_cvtps_epi32(x.a), _mm256_cvtps_epi32(x.b));
  words = _mm256_permute4x64_epi64(words, 0xd8);  // packs works within 128-bit halves
  _mm_storeu_si128((__m128i*)p, _mm_packs_epi16(_mm256_castsi256_si128(words), _mm256_extracti128_si256(words, 1)));
}
inline int32_t sum_rounded(F32 x) {
  __m256i eight = _mm256_add_epi32(_mm256_cvtps_epi32(x.a), _mm256_cvtps_epi32(x.b));
  __m128i four = _mm_add_epi32(_mm256_castsi256_si128(eight), _mm256_extracti128_si256(eight, 1));
  __m128i two = _mm_add_epi32(four, _mm_unpackhi_epi64(four, four));
  return int32_t(uint32_t(_mm_cvtsi128_si32(two)) + uint32_t(_mm_extract_epi32(two, 1)));
}
inline void prefetch(const void* p) { _mm_prefetch((const char*)p, _MM_HINT_T0); }
inline void pause_thread() { _mm_pause(); }

}  // namespace fathom
