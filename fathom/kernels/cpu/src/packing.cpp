// From rows as GGUF and safetensors store them to the order of formats.h, and back for single rows (embeddings).
// Block layouts: ggml-common.h of llama.cpp; checked in the tests against the `gguf` package's own dequantisation.
#include <algorithm>
#include <cstring>

#include "matrix.h"
#include "simd.h"

namespace fathom {
namespace {

// One group of 32 columns of one row, as stored.
struct Group {
  uint8_t codes[32];
  uint16_t scale, minimum;            // float16: of the group, or of the super-block for K-types
  uint8_t scales[2], minima[2];       // K-types: per 32 or per 16 columns
};

uint16_t u16(const uint8_t* p) { return uint16_t(p[0] | p[1] << 8); }

void nibbles(const uint8_t* bytes, uint8_t* codes) {
  for (int i = 0; i < 16; i++) codes[i] = bytes[i] & 15, codes[i + 16] = bytes[i] >> 4;
}

void fifth_bits(const uint8_t* bits, uint8_t* codes) {
  for (int i = 0; i < 32; i++) codes[i] |= (bits[i / 8] >> (i % 8) & 1) << 4;
}

// Six-bit scale and minimum of Q4_K and Q5_K.
void scale_and_minimum(const uint8_t* packed, int i, Group& group) {
  if (i < 4) {
    group.scales[0] = packed[i] & 63, group.minima[0] = packed[i + 4] & 63;
  } else {
    group.scales[0] = uint8_t((packed[i + 4] & 15) | packed[i - 4] >> 6 << 4);
    group.minima[0] = uint8_t(packed[i + 4] >> 4 | packed[i] >> 6 << 4);
  }
}

struct Reader {
  int stored_columns, stored_bytes;  // of one stored block
  void (*read)(const uint8_t* block, int group, Group& out);  // group counts within the stored block
};

void read_q4_0(const uint8_t* b, int, Group& out) { out.scale = u16(b), nibbles(b + 2, out.codes); }

void read_q4_1(const uint8_t* b, int, Group& out) { out.scale = u16(b), out.minimum = u16(b + 2), nibbles(b + 4, out.codes); }

void read_q5_0(const uint8_t* b, int, Group& out) {
  out.scale = u16(b), nibbles(b + 6, out.codes), fifth_bits(b + 2, out.codes);
}

void read_q5_1(const uint8_t* b, int, Group& out) {
  out.scale = u16(b), out.minimum = u16(b + 2), nibbles(b + 8, out.codes), fifth_bits(b + 4, out.codes);
}

void read_q8_0(const uint8_t* b, int, Group& out) {
  out.scale = u16(b);
  for (int i = 0; i < 32; i++) out.codes[i] = b[2 + i] ^ 0x80;  // value + 128
}

void read_q2_k(const uint8_t* b, int g, Group& out) {
  const uint8_t *scales = b + 2 * g, *codes = b + 16 + 32 * (g / 4);
  for (int i = 0; i < 32; i++) out.codes[i] = codes[i] >> 2 * (g % 4) & 3;
  for (int half = 0; half < 2; half++) out.scales[half] = scales[half] & 15, out.minima[half] = scales[half] >> 4;
  out.scale = u16(b + 80), out.minimum = u16(b + 82);
}

void read_q3_k(const uint8_t* b, int g, Group& out) {
  const uint8_t *high = b, *codes = b + 32 + 32 * (g / 4), *packed = b + 96;
  for (int i = 0; i < 32; i++) out.codes[i] = uint8_t((codes[i] >> 2 * (g % 4) & 3) | (high[i] >> g & 1) << 2);
  for (int half = 0; half < 2; half++) {
    int i = 2 * g + half;  // of 16 scales: four low bits in bytes 0..7, two high bits in bytes 8..11
    int low = i < 8 ? packed[i] & 15 : packed[i - 8] >> 4, top = packed[8 + i % 4] >> 2 * (i / 4) & 3;
    out.scales[half] = uint8_t((low | top << 4) - 32);
  }
  out.scale = u16(b + 108);
}

void read_q4_k(const uint8_t* b, int g, Group& out) {
  const uint8_t* codes = b + 16 + 32 * (g / 2);
  for (int i = 0; i < 32; i++) out.codes[i] = codes[i] >> 4 * (g % 2) & 15;
  scale_and_minimum(b + 4, g, out);
  out.scale = u16(b), out.minimum = u16(b + 2);
}

void read_q5_k(const uint8_t* b, int g, Group& out) {
  const uint8_t *high = b + 16, *codes = b + 48 + 32 * (g / 2);
  for (int i = 0; i < 32; i++) out.codes[i] = uint8_t((codes[i] >> 4 * (g % 2) & 15) | (high[i] >> g & 1) << 4);
  scale_and_minimum(b + 4, g, out);
  out.scale = u16(b), out.minimum = u16(b + 2);
}

void read_q6_k(const uint8_t* b, int g, Group& out) {
  const uint8_t *low = b + 64 * (g / 4) + 32 * (g % 2), *high = b + 128 + 32 * (g / 4), *scales = b + 192 + 2 * g;
  for (int i = 0; i < 32; i++)
    out.codes[i] = uint8_t((low[i] >> 4 * (g % 4 / 2) & 15) | (high[i] >> 2 * (g % 4) & 3) << 4);
  out.scales[0] = scales[0], out.scales[1] = scales[1];
  out.scale = u16(b + 208);
}

Reader reader(Type type) {
  switch (type) {
    case Type::Q4_0: return {32, 18, read_q4_0};
    case Type::Q4_1: return {32, 20, read_q4_1};
    case Type::Q5_0: return {32, 22, read_q5_0};
    case Type::Q5_1: return {32, 24, read_q5_1};
    case Type::Q8_0: return {32, 34, read_q8_0};
    case Type::Q2_K: return {256, 84, read_q2_k};
    case Type::Q3_K: return {256, 110, read_q3_k};
    case Type::Q4_K: return {256, 144, read_q4_k};
    case Type::Q5_K: return {256, 176, read_q5_k};
    case Type::Q6_K: return {256, 210, read_q6_k};
    case Type::F32: return {1, 4, nullptr};
    case Type::F16:
    case Type::BF16: return {1, 2, nullptr};
  }
  return {0, 0, nullptr};
}

// The planes of formats.h: where the bits of column k of a row lie in a group's codes.
// Four codes at a time, as the bytes of a word.
template <int Bits>
void put_codes(uint8_t* group, int row, const uint8_t* codes) {
  uint32_t words[kGroup / 4];
  std::memcpy(words, codes, sizeof words);
  auto put = [&](int at, uint32_t word) { std::memcpy(group + at + row * 4, &word, sizeof word); };
  constexpr int nibble_bytes = Bits >= 4 ? 256 : 0, pair_bytes = Bits == 2 || Bits == 3 || Bits == 6 ? 128 : 0;
  if constexpr (Bits == 8) {
    for (int i = 0; i < 8; i++) put(i * 64, words[i]);
    return;
  }
  if constexpr (Bits >= 4) {
    for (int i = 0; i < 8; i += 2) put(i * 32, (words[i] & 0x0f0f0f0f) | (words[i + 1] & 0x0f0f0f0f) << 4);
    for (uint32_t& word : words) word = word >> 4 & 0x0f0f0f0f;
  }
  if constexpr (pair_bytes > 0) {
    uint32_t pairs[2] = {};
    for (int i = 0; i < 8; i++) pairs[i / 4] |= (words[i] & 0x03030303) << i % 4 * 2, words[i] = words[i] >> 2 & 0x3f3f3f3f;
    for (int i = 0; i < 2; i++) put(nibble_bytes + i * 64, pairs[i]);
  }
  if constexpr (Bits % 2 == 1) {
    uint32_t bits = 0;
    for (int i = 0; i < 8; i++) bits |= (words[i] & 0x01010101) << i;
    put(nibble_bytes + pair_bytes, bits);
  }
}

template <int Bits>
int get_code(const uint8_t* group, int row, int k) {
  int vector = k / 4, byte = row * 4 + k % 4, code = 0;
  if constexpr (Bits == 8) return group[vector * 64 + byte];
  constexpr int nibble_bytes = Bits >= 4 ? 256 : 0, pair_bytes = Bits == 2 || Bits == 3 || Bits == 6 ? 128 : 0;
  if constexpr (Bits >= 4) code = group[vector / 2 * 64 + byte] >> vector % 2 * 4 & 15;
  if constexpr (pair_bytes > 0) code |= (group[nibble_bytes + vector / 4 * 64 + byte] >> vector % 4 * 2 & 3) << (Bits == 6 ? 4 : 0);
  if constexpr (Bits % 2 == 1) code |= (group[nibble_bytes + pair_bytes + byte] >> vector & 1) << (Bits - 1);
  return code;
}

void put_u16(uint8_t* p, uint16_t value) { p[0] = uint8_t(value), p[1] = uint8_t(value >> 8); }

template <class Format>
void put_scales(uint8_t* scales, uint8_t* super, int row, const Group& group) {
  if constexpr (Format::kSuper) {
    for (int half = 0; half < Format::kHalves; half++) {
      scales[half * 16 + row] = group.scales[half];
      if constexpr (Format::kMinimum) scales[Format::kOneScale + half * 16 + row] = group.minima[half];
    }
    put_u16(super + row * 2, group.scale);
    if constexpr (Format::kMinimum) put_u16(super + 32 + row * 2, group.minimum);
  } else {
    put_u16(scales + row * 2, group.scale);
    if constexpr (Format::kMinimum) put_u16(scales + 32 + row * 2, group.minimum);
  }
}

template <int Bits, int Offset, Scales Kind>
void pack_block(Quantised<Bits, Offset, Kind>, const Matrix& w, uint8_t* target, const uint8_t* stored, int block) {
  using Format = Quantised<Bits, Offset, Kind>;
  const Reader from = reader(w.type);
  const int groups_per_stored = from.stored_columns / kGroup;
  const int64_t row_bytes = int64_t(w.columns / from.stored_columns) * from.stored_bytes;
  for (int row = 0; row < std::min(kBlockRows, w.rows - block * kBlockRows); row++) {
    const uint8_t* source = stored + (int64_t(block) * kBlockRows + row) * row_bytes;
    for (int g = 0; g < w.groups; g++) {
      Group group;
      from.read(source + int64_t(g / groups_per_stored) * from.stored_bytes, g % groups_per_stored, group);
      uint8_t* to = target + Format::group_offset(g);
      put_codes<Bits>(to, row, group.codes);
      put_scales<Format>(to + Format::kCodeBytes, target + Format::super_offset(g), row, group);
    }
  }
}

// Where column k of a row lies in a block of floating-point weights, in elements.
template <Type Which>
int64_t float_index(int row, int k) {
  return Which == Type::BF16 ? int64_t(k / 2) * 32 + row * 2 + k % 2 : int64_t(k) * 16 + row;
}

// Columns outside, rows inside: what is written lies side by side, and so does each row that is read.
template <Type Which>
void pack_block(Floating<Which>, const Matrix& w, uint8_t* target, const uint8_t* stored, int block) {
  constexpr int bytes = Floating<Which>::kBytes, together = Which == Type::BF16 ? 2 : 1;
  const int rows = std::min(kBlockRows, w.rows - block * kBlockRows);
  const uint8_t* source = stored + int64_t(block) * kBlockRows * w.columns * bytes;
  for (int k = 0; k < w.columns; k += together)
    for (int row = 0; row < rows; row++)
      std::memcpy(target + float_index<Which>(row, k) * bytes, source + (int64_t(row) * w.columns + k) * bytes,
                  std::min(together, w.columns - k) * bytes);
}

template <class Format>
float scale_at(const uint8_t* scales, const uint8_t* super, int row, int half) {
  if constexpr (!Format::kSuper) return float_from_f16(u16(scales + row * 2));
  float d = float_from_f16(u16(super + row * 2));
  uint8_t code = scales[half * 16 + row];
  return d * (Format::kScales == Scales::kSuper16 ? float(int8_t(code)) : float(code));
}

template <class Format>
float minimum_at(const uint8_t* scales, const uint8_t* super, int row, int half) {
  if constexpr (!Format::kMinimum) return 0;
  if constexpr (!Format::kSuper) return float_from_f16(u16(scales + 32 + row * 2));
  return -float_from_f16(u16(super + 32 + row * 2)) * float(scales[Format::kOneScale + half * 16 + row]);
}

template <int Bits, int Offset, Scales Kind>
void read_row(Quantised<Bits, Offset, Kind>, const Matrix& w, int row, float* out) {
  using Format = Quantised<Bits, Offset, Kind>;
  const uint8_t* block = w.block(row / kBlockRows);
  row %= kBlockRows;
  for (int g = 0; g < w.groups; g++) {
    const uint8_t *codes = block + Format::group_offset(g), *scales = codes + Format::kCodeBytes, *above = block + Format::super_offset(g);
    for (int k = 0; k < kGroup; k++) {
      int half = k * Format::kHalves / kGroup;
      float scale = scale_at<Format>(scales, above, row, half), minimum = minimum_at<Format>(scales, above, row, half);
      out[g * kGroup + k] = scale * float(get_code<Bits>(codes, row, k) - Offset) + minimum;
    }
  }
}

template <Type Which>
void read_row(Floating<Which>, const Matrix& w, int row, float* out) {
  const uint8_t* block = w.block(row / kBlockRows);
  for (int k = 0; k < w.groups * kGroup; k++) {
    const uint8_t* p = block + float_index<Which>(row % kBlockRows, k) * Floating<Which>::kBytes;
    if constexpr (Which == Type::F32) std::memcpy(out + k, p, 4);
    else out[k] = Which == Type::F16 ? float_from_f16(u16(p)) : float_from_bf16(u16(p));
  }
}

}  // namespace

int64_t stored_bytes(Type type, int64_t rows, int64_t columns) {
  Reader from = reader(type);
  if (from.stored_columns == 0 || columns % from.stored_columns) return 0;
  return rows * (columns / from.stored_columns) * from.stored_bytes;
}

Matrix make_matrix(Type type, int rows, int columns, int parts, Arena& arena) {
  Matrix matrix;
  matrix.type = type, matrix.rows = rows, matrix.columns = columns, matrix.parts = parts;
  matrix.blocks = round_up(rows, 2 * kBlockRows) / kBlockRows;
  matrix.groups = round_up(columns, kGroup) / kGroup;
  with_format(type, [&](auto format) { matrix.block_bytes = format.block_bytes(matrix.groups); });
  matrix.kernel = &kernel(type);
  matrix.data = arena.take(size_t(parts) * size_t(matrix.blocks) * size_t(matrix.block_bytes));
  return matrix;
}

void pack_blocks(Matrix& matrix, int part, const uint8_t* stored, int first, int last) {
  uint8_t* target = matrix.data + int64_t(part) * matrix.blocks * matrix.block_bytes;
  with_format(matrix.type, [&](auto format) {
    for (int block = first; block < last; block++)
      pack_block(format, matrix, target + block * matrix.block_bytes, stored, block);
  });
}

void Matrix::row_values(int row, float* out) const {
  with_format(type, [&](auto format) { read_row(format, *this, row, out); });
}

}  // namespace fathom
