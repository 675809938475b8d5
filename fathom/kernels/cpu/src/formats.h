// How weights lie in memory here: the values of the stored types, in the order in which the kernels read them.
//
// A block is 16 rows. Its columns are cut into groups of 32: first a group's codes, then its scales. K-types put the scales of
// a super-block (256 columns) before its eight groups. So a block is read in one go, which is what memory is fastest at (codes
// and scales in places of their own streamed at half the rate). Within a group, "vector i" (i = 0..7) is 64 bytes: columns
// 4i..4i+3 of each of the 16 rows, byte row * 4 + column % 4. Codes of fewer than 8 bits are cut into planes:
//   4 bits   vectors 2j and 2j+1 are the low and high nibbles of the j-th 64 bytes
//   2 bits   vectors 4j..4j+3 are the four bit pairs of the j-th 64 bytes
//   1 bit    vector i is bit i of each of 64 bytes
// 5 = 4 + 1, 6 = 4 + 2, 3 = 2 + 1 bits. Nothing is requantised: every weight keeps exactly its stored value
//   scale * (code - kOffset) + minimum.
#pragma once
#include <cstdint>

namespace fathom {

// The numbers of GGML's tensor types (ggml.h), which GGUF files carry.
enum class Type : int32_t {
  F32 = 0, F16 = 1, Q4_0 = 2, Q4_1 = 3, Q5_0 = 6, Q5_1 = 7, Q8_0 = 8,
  Q2_K = 10, Q3_K = 11, Q4_K = 12, Q5_K = 13, Q6_K = 14, BF16 = 30,
};

inline constexpr int kBlockRows = 16, kGroup = 32, kSuperGroups = 8;

enum class Scales {
  kHalf,           // float16 scale for 32 columns
  kHalfMin,        // float16 scale and minimum for 32 columns
  kSuper32Min,     // d * scale and -dmin * minimum for 32 columns: float16 d, dmin for 256 columns, bytes per 32
  kSuper16,        // d * signed scale for 16 columns
  kSuper16Min,     // d * scale and -dmin * minimum for 16 columns
};

template <int Bits, int Offset, Scales Kind>
struct Quantised {
  static constexpr int kBits = Bits, kOffset = Offset;
  static constexpr Scales kScales = Kind;
  static constexpr bool kSuper = Kind == Scales::kSuper32Min || Kind == Scales::kSuper16 || Kind == Scales::kSuper16Min;
  static constexpr bool kMinimum = Kind == Scales::kHalfMin || Kind == Scales::kSuper32Min || Kind == Scales::kSuper16Min;
  static constexpr int kHalves = Kind == Scales::kSuper16 || Kind == Scales::kSuper16Min ? 2 : 1;  // scales per group
  static constexpr int kCodeBytes = 64 * Bits;
  static constexpr int kOneScale = kSuper ? 16 * kHalves : 32;  // bytes of a group's scales, and again of its minima
  static constexpr int kScaleBytes = kOneScale * (kMinimum ? 2 : 1);
  static constexpr int kSuperBytes = kSuper ? (kMinimum ? 64 : 32) : 0;
  static constexpr int kGroupBytes = kCodeBytes + kScaleBytes;

  // From a block's beginning.
  static constexpr int64_t super_offset(int g) { return int64_t(g / kSuperGroups) * (kSuperBytes + kSuperGroups * kGroupBytes); }
  static constexpr int64_t group_offset(int g) { return int64_t(g) * kGroupBytes + (kSuper ? (g / kSuperGroups + 1) * kSuperBytes : 0); }
  static int64_t block_bytes(int groups) { return int64_t(groups) * kGroupBytes + (kSuper ? groups / kSuperGroups * kSuperBytes : 0); }
};

using Q4_0 = Quantised<4, 8, Scales::kHalf>;
using Q4_1 = Quantised<4, 0, Scales::kHalfMin>;
using Q5_0 = Quantised<5, 16, Scales::kHalf>;
using Q5_1 = Quantised<5, 0, Scales::kHalfMin>;
using Q8_0 = Quantised<8, 128, Scales::kHalf>;
using Q2_K = Quantised<2, 0, Scales::kSuper16Min>;
using Q3_K = Quantised<3, 4, Scales::kSuper16>;
using Q4_K = Quantised<4, 0, Scales::kSuper32Min>;
using Q5_K = Quantised<5, 0, Scales::kSuper32Min>;
using Q6_K = Quantised<6, 32, Scales::kSuper16>;

// Floating-point weights: BF16 as [column pair][row][2], F16 and F32 as [column][row].
template <Type Which>
struct Floating {
  static constexpr int kBytes = Which == Type::F32 ? 4 : 2;
  static int64_t block_bytes(int groups) { return int64_t(groups) * kGroup * kBlockRows * kBytes; }
};

// Calls f with an instance of the format of `type`; returns false for a type that is not known.
template <class Function>
bool with_format(Type type, Function f) {
  switch (type) {
    case Type::F32: f(Floating<Type::F32>{}); return true;
    case Type::F16: f(Floating<Type::F16>{}); return true;
    case Type::BF16: f(Floating<Type::BF16>{}); return true;
    case Type::Q4_0: f(Q4_0{}); return true;
    case Type::Q4_1: f(Q4_1{}); return true;
    case Type::Q5_0: f(Q5_0{}); return true;
    case Type::Q5_1: f(Q5_1{}); return true;
    case Type::Q8_0: f(Q8_0{}); return true;
    case Type::Q2_K: f(Q2_K{}); return true;
    case Type::Q3_K: f(Q3_K{}); return true;
    case Type::Q4_K: f(Q4_K{}); return true;
    case Type::Q5_K: f(Q5_K{}); return true;
    case Type::Q6_K: f(Q6_K{}); return true;
  }
  return false;
}

}  // namespace fathom
