// Plain C++: the readable twin of the vector headers, and what runs on machines they do not know. Included by simd.h.
#pragma once
#include <cmath>

namespace fathom {

inline constexpr int kRowTile = 1;
inline constexpr int kTileRows = 0;
inline constexpr bool kBiasedBytes = false;
inline constexpr const char* kVariant = "portable";

struct F32 {
  float v[16];
  template <class Function>
  static F32 each(Function f) {
    F32 result;
    for (int i = 0; i < 16; i++) result.v[i] = f(i);
    return result;
  }
  static F32 zero() { return set(0); }
  static F32 set(float x) { return each([=](int) { return x; }); }
  static F32 load(const float* p) { return each([=](int i) { return p[i]; }); }
  static F32 load_f16(const void* p) {
    uint16_t half[16];
    std::memcpy(half, p, 32);
    return each([&](int i) { return float_from_f16(half[i]); });
  }
  static F32 load_u8(const void* p) { return each([=](int i) { return float(((const uint8_t*)p)[i]); }); }
  static F32 load_i8(const void* p) { return each([=](int i) { return float(((const int8_t*)p)[i]); }); }
  void store(float* p) const { std::memcpy(p, v, 64); }
  void store_first(float* p, int n) const { std::memcpy(p, v, size_t(n) * 4); }
};
inline F32 operator+(F32 a, F32 b) { return F32::each([&](int i) { return a.v[i] + b.v[i]; }); }
inline F32 operator-(F32 a, F32 b) { return F32::each([&](int i) { return a.v[i] - b.v[i]; }); }
inline F32 operator*(F32 a, F32 b) { return F32::each([&](int i) { return a.v[i] * b.v[i]; }); }
inline F32 operator/(F32 a, F32 b) { return F32::each([&](int i) { return a.v[i] / b.v[i]; }); }
inline F32 fma(F32 a, F32 b, F32 c) { return F32::each([&](int i) { return a.v[i] * b.v[i] + c.v[i]; }); }
inline F32 max(F32 a, F32 b) { return F32::each([&](int i) { return a.v[i] > b.v[i] ? a.v[i] : b.v[i]; }); }
inline F32 min(F32 a, F32 b) { return F32::each([&](int i) { return a.v[i] < b.v[i] ? a.v[i] : b.v[i]; }); }
inline F32 absolute(F32 a) { return F32::each([&](int i) { return std::fabs(a.v[i]); }); }
inline float sum(F32 a) {
  float total = 0;
  for (float x : a.v) total += x;
  return total;
}
inline float maximum(F32 a) {
  float best = a.v[0];
  for (float x : a.v) best = x > best ? x : best;
  return best;
}
inline F32 keep_first(F32 a, int n, float fill) { return F32::each([&](int i) { return i < n ? a.v[i] : fill; }); }
inline F32 round_to_integer(F32 a) { return F32::each([&](int i) { return std::nearbyint(a.v[i]); }); }
// `whole` beyond what a float can be multiplied by, or a NaN, is as good as the bound.
inline F32 times_power_of_two(F32 a, F32 whole) {
  auto bounded = [](float x) { return x > 400 ? 400 : x > -400 ? int(x) : -400; };
  return F32::each([&](int i) { return std::ldexp(a.v[i], bounded(whole.v[i])); });
}

struct I32 {
  int32_t v[16];
  static I32 zero() { return set(0); }
  static I32 set(int32_t x) {
    I32 result;
    for (int32_t& lane : result.v) lane = x;
    return result;
  }
};
template <int N>
inline I32 shift_left(I32 a) {
  for (int32_t& lane : a.v) lane *= 1 << N;
  return a;
}
inline F32 to_float(I32 a) { return F32::each([&](int i) { return float(a.v[i]); }); }

struct U8 {
  uint8_t v[64];
  static U8 set(int x) {
    U8 result;
    std::memset(result.v, x, 64);
    return result;
  }
  static U8 load(const void* p) {
    U8 result;
    std::memcpy(result.v, p, 64);
    return result;
  }
};
inline U8 operator&(U8 a, U8 b) {
  for (int i = 0; i < 64; i++) a.v[i] &= b.v[i];
  return a;
}
inline U8 operator|(U8 a, U8 b) {
  for (int i = 0; i < 64; i++) a.v[i] |= b.v[i];
  return a;
}
template <int N>
inline U8 shift_bits(U8 a) {
  for (uint8_t& byte : a.v) byte = uint8_t(N > 0 ? byte << (N > 0 ? N : 0) : byte >> (N < 0 ? -N : 0));
  return a;
}

inline I32 dot_small(I32 acc, U8 w, const int8_t* x) {
  for (int row = 0; row < 16; row++)
    for (int column = 0; column < 4; column++) acc.v[row] += w.v[row * 4 + column] * x[column];
  return acc;
}
inline I32 dot_bytes(I32 acc, U8 w, const int8_t* x) {
  for (int row = 0; row < 16; row++)
    for (int column = 0; column < 4; column++) acc.v[row] += (w.v[row * 4 + column] - 128) * x[column];
  return acc;
}
inline F32 dot_bf16(F32 acc, const uint16_t* w, const uint16_t* x) {
  float first = float_from_bf16(x[0]), second = float_from_bf16(x[1]);
  for (int row = 0; row < 16; row++)
    acc.v[row] += float_from_bf16(w[row * 2]) * first + float_from_bf16(w[row * 2 + 1]) * second;
  return acc;
}
inline void store_bf16(uint16_t* p, F32 a) {
  for (int i = 0; i < 16; i++) p[i] = bf16_from(a.v[i]);
}
inline int32_t rounded(float x) { return std::isfinite(x) ? int32_t(std::nearbyint(x)) : 0; }
inline void store_i8(int8_t* p, F32 a) {
  for (int i = 0; i < 16; i++) p[i] = int8_t(rounded(a.v[i]));
}
inline int32_t sum_rounded(F32 a) {
  int32_t total = 0;
  for (float x : a.v) total += rounded(x);
  return total;
}
inline void prefetch(const void*) {}
inline void pause_thread() {}

}  // namespace fathom
