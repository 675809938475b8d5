// AVX-512 (F, BW, VL, DQ), with VNNI and BF16 where FATHOM_VNNI says so. Included by simd.h.
#pragma once
#include <immintrin.h>

namespace fathom {

inline constexpr int kRowTile = 8;
#ifdef FATHOM_AMX
inline constexpr int kTileRows = 16;
#else
inline constexpr int kTileRows = 0;
#endif
#if defined(FATHOM_AMX)
inline constexpr bool kBiasedBytes = true;
inline constexpr const char* kVariant = "avx512_amx";
#elif defined(FATHOM_VNNI)
inline constexpr bool kBiasedBytes = true;  // dot() takes weights as value + 128
inline constexpr const char* kVariant = "avx512_vnni_bf16";
#else
inline constexpr bool kBiasedBytes = false;
inline constexpr const char* kVariant = "avx512";
#endif

struct F32 {
  __m512 v;
  static F32 zero() { return {_mm512_setzero_ps()}; }
  static F32 set(float x) { return {_mm512_set1_ps(x)}; }
  static F32 load(const float* p) { return {_mm512_loadu_ps(p)}; }
  static F32 load_f16(const void* p) { return {_mm512_cvtph_ps(_mm256_loadu_si256((const __m256i*)p))}; }
  static F32 load_u8(const void* p) {
    return {_mm512_cvtepi32_ps(_mm512_cvtepu8_epi32(_mm_loadu_si128((const __m128i*)p)))};
  }
  static F32 load_i8(const void* p) {
    return {_mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_loadu_si128((const __m128i*)p)))};
  }
  void store(float* p) const { _mm512_storeu_ps(p, v); }
  void store_first(float* p, int n) const { _mm512_mask_storeu_ps(p, __mmask16((1u << n) - 1), v); }
};
inline F32 operator+(F32 a, F32 b) { return {_mm512_add_ps(a.v, b.v)}; }
inline F32 operator-(F32 a, F32 b) { return {_mm512_sub_ps(a.v, b.v)}; }
inline F32 operator*(F32 a, F32 b) { return {_mm512_mul_ps(a.v, b.v)}; }
inline F32 operator/(F32 a, F32 b) { return {_mm512_div_ps(a.v, b.v)}; }
inline F32 fma(F32 a, F32 b, F32 c) { return {_mm512_fmadd_ps(a.v, b.v, c.v)}; }
inline F32 max(F32 a, F32 b) { return {_mm512_max_ps(a.v, b.v)}; }
inline F32 min(F32 a, F32 b) { return {_mm512_min_ps(a.v, b.v)}; }
inline F32 absolute(F32 a) { return {_mm512_abs_ps(a.v)}; }
inline float sum(F32 a) { return _mm512_reduce_add_ps(a.v); }
inline float maximum(F32 a) { return _mm512_reduce_max_ps(a.v); }
inline F32 keep_first(F32 a, int n, float fill) {
  return {_mm512_mask_mov_ps(_mm512_set1_ps(fill), __mmask16(n >= 16 ? 0xffff : (1u << n) - 1), a.v)};
}
inline F32 round_to_integer(F32 a) { return {_mm512_roundscale_ps(a.v, 0)}; }
inline F32 times_power_of_two(F32 a, F32 whole) { return {_mm512_scalef_ps(a.v, whole.v)}; }

struct I32 {
  __m512i v;
  static I32 zero() { return {_mm512_setzero_si512()}; }
  static I32 set(int32_t x) { return {_mm512_set1_epi32(x)}; }
};
template <int N>
inline I32 shift_left(I32 a) { return {_mm512_slli_epi32(a.v, N)}; }
inline F32 to_float(I32 a) { return {_mm512_cvtepi32_ps(a.v)}; }

struct U8 {
  __m512i v;
  static U8 set(int x) { return {_mm512_set1_epi8(char(x))}; }
  static U8 load(const void* p) { return {_mm512_loadu_si512(p)}; }
};
inline U8 operator&(U8 a, U8 b) { return {_mm512_and_si512(a.v, b.v)}; }
inline U8 operator|(U8 a, U8 b) { return {_mm512_or_si512(a.v, b.v)}; }
// Shifts move bits across the two bytes of a word: the caller masks.
template <int N>
inline U8 shift_bits(U8 a) {
  if constexpr (N > 0) return {_mm512_slli_epi16(a.v, N)};
  else if constexpr (N < 0) return {_mm512_srli_epi16(a.v, -N)};
  else return a;
}

#ifdef FATHOM_VNNI
inline I32 dot_small(I32 acc, U8 w, const int8_t* x) {
  return {_mm512_dpbusd_epi32(acc.v, w.v, _mm512_set1_epi32(four_bytes(x)))};
}
inline I32 dot_bytes(I32 acc, U8 w, const int8_t* x) { return dot_small(acc, w, x); }
inline F32 dot_bf16(F32 acc, const uint16_t* w, const uint16_t* x) {
  return {_mm512_dpbf16_ps(acc.v, (__m512bh)_mm512_loadu_si512(w), (__m512bh)_mm512_set1_epi32(four_bytes(x)))};
}
inline void store_bf16(uint16_t* p, F32 a) { _mm256_storeu_si256((__m256i*)p, (__m256i)_mm512_cvtneps_pbh(a.v)); }
#else
// w below 128: pairs of products stay below 2 * 127 * 127 < 2^15, so the saturating 16-bit sum is exact.
inline I32 dot_small(I32 acc, U8 w, const int8_t* x) {
  __m512i pairs = _mm512_maddubs_epi16(w.v, _mm512_set1_epi32(four_bytes(x)));
  return {_mm512_add_epi32(acc.v, _mm512_madd_epi16(pairs, _mm512_set1_epi16(1)))};
}
// w = value + 128: |value| * (x with value's sign) keeps the pairs within 2 * 128 * 127 < 2^15.
inline I32 dot_bytes(I32 acc, U8 w, const int8_t* x) {
  __m512i value = _mm512_xor_si512(w.v, _mm512_set1_epi8(char(0x80))), four = _mm512_set1_epi32(four_bytes(x));
  __m512i with_sign = _mm512_mask_sub_epi8(four, _mm512_movepi8_mask(value), _mm512_setzero_si512(), four);
  __m512i pairs = _mm512_maddubs_epi16(_mm512_abs_epi8(value), with_sign);
  return {_mm512_add_epi32(acc.v, _mm512_madd_epi16(pairs, _mm512_set1_epi16(1)))};
}
inline F32 dot_bf16(F32 acc, const uint16_t* w, const uint16_t* x) {
  __m512i weights = _mm512_loadu_si512(w), pair = _mm512_set1_epi32(four_bytes(x));
  __m512i high = _mm512_set1_epi32(int(0xffff0000u));
  __m512 even = _mm512_fmadd_ps(_mm512_castsi512_ps(_mm512_slli_epi32(weights, 16)),
                                _mm512_castsi512_ps(_mm512_slli_epi32(pair, 16)), acc.v);
  return {_mm512_fmadd_ps(_mm512_castsi512_ps(_mm512_and_si512(weights, high)),
                          _mm512_castsi512_ps(_mm512_and_si512(pair, high)), even)};
}
inline void store_bf16(uint16_t* p, F32 a) {
  __m512i bits = _mm512_castps_si512(a.v), odd = _mm512_and_si512(_mm512_srli_epi32(bits, 16), _mm512_set1_epi32(1));
  __m512i rounded = _mm512_srli_epi32(_mm512_add_epi32(bits, _mm512_add_epi32(odd, _mm512_set1_epi32(0x7fff))), 16);
  __mmask16 nan = _mm512_cmp_ps_mask(a.v, a.v, _CMP_UNORD_Q);
  rounded = _mm512_mask_mov_epi32(rounded, nan, _mm512_set1_epi32(0x7fc0));
  _mm256_storeu_si256((__m256i*)p, _mm512_cvtepi32_epi16(rounded));
}
#endif

inline void store_i8(int8_t* p, F32 a) { _mm_storeu_si128((__m128i*)p, _mm512_cvtepi32_epi8(_mm512_cvtps_epi32(a.v))); }
inline int32_t sum_rounded(F32 a) { return _mm512_reduce_add_epi32(_mm512_cvtps_epi32(a.v)); }
inline void prefetch(const void* p) { _mm_prefetch((const char*)p, _MM_HINT_T0); }
inline void pause_thread() { _mm_pause(); }

}  // namespace fathom
