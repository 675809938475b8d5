// A weight matrix in the order of formats.h, and the activations that it is multiplied with.
#pragma once
#include <cstdint>

#include "buffer.h"
#include "formats.h"

namespace fathom {

inline constexpr int kPrefetch = 8192;  // bytes ahead of the weights in use

inline int round_up(int n, int to) { return (n + to - 1) / to * to; }

// What a group of 32 quantised activations carries beside its int8 codes.
struct GroupScale {
  float scale;                // x = scale * code
  float scaled_sum;           // scale * sum of the codes: meets the weights' minimum
  int32_t negative_sum;       // - sum of the codes: meets the weights' offset
  int32_t negative_first_sum; // the same for the first 16 codes
};

enum Representation : int { kInt8 = 1, kBF16 = 2, kFloat = 4 };

// Rows of activations, in those representations that the weights ask for. Columns are a multiple of 32, the rest zero.
struct Activations {
  int columns = 0;
  int8_t* codes = nullptr;
  GroupScale* scales = nullptr;
  uint16_t* bf16 = nullptr;
  float* values = nullptr;

  void represent(int row, int width, const float* x, int needs);  // width: columns; x may be values' own row
  // The same rows, for a thread that cannot wait for another to have set the number of columns, and must not read it.
  Activations with(int their_columns) const { return {their_columns, codes, scales, bf16, values}; }
};

struct OwnActivations : Activations {
  void reserve(int rows, int max_columns);

 private:
  Buffer memory_;
};

// Writes the dot products of `rows` activations with the block's 16 weight rows: out[row][16].
using DotTile = void (*)(const uint8_t* block, int groups, const Activations& x, int row, float* out);

// The same for `count` rows, a multiple of 16.
using DotMany = void (*)(const uint8_t* block, int groups, const Activations& x, int row, int count, float* out);

struct Kernel {
  DotTile tiles[4];  // for 1, 2, 4, 8 rows of activations
  Representation needs;
  DotTile narrow[4] = {};  // the same over a number of columns (a multiple of 4) instead of groups; floating-point types only
  DotMany many = nullptr;  // where the processor has tiles
  int many_rows = 0;       // from so many rows on it is faster
};
const Kernel& kernel(Type type);

// Several matrices of one size (a layer's experts) lie behind one another as parts; most have one part.
struct Matrix {
  Type type = Type::F32;
  int rows = 0, columns = 0, blocks = 0, groups = 0;  // of a part; blocks and groups count the padding, which is zero
  int parts = 1, filled = 0;
  int64_t block_bytes = 0;
  const Kernel* kernel = nullptr;
  uint8_t* data = nullptr;

  explicit operator bool() const { return kernel != nullptr; }
  const uint8_t* block(int i) const { return data + i * block_bytes; }
  void row_values(int row, float* out) const;  // dequantised, `groups * 32` long; of the first part
};

// Bytes of `rows` stored rows; 0 when the type is unknown or the columns do not fit its blocks.
int64_t stored_bytes(Type type, int64_t rows, int64_t columns);
// An empty matrix of `parts` times `rows` x `columns`, padded to whole blocks of 16 rows (an even number) and groups of 32
// columns. Its memory is the arena's.
Matrix make_matrix(Type type, int rows, int columns, int parts, Arena& arena);
// Brings blocks [first, last) of a part from stored rows into the kernels' order.
void pack_blocks(Matrix& matrix, int part, const uint8_t* stored, int first, int last);

}  // namespace fathom
