// Attention over pages of 64 cached tokens, in bfloat16 with float32 sums.
//
// The result is defined page by page: each page gives a partial softmax (its maximum, sum and weighted values), and partials
// are merged in page order. However the work is cut over threads, queries or chunks, the bits are the same.
#pragma once
#include <cstdint>

namespace fathom {

inline constexpr int kPageTokens = 64, kQueryTile = 32;
inline constexpr int kPartialHeader = 16;  // floats: maximum (of base-2 scores), sum, padding; then the values

// Sizes in elements; multiples of 16. A page of one key/value head holds its keys, then its values:
//   keys    [4][key_size / 2][16][2]   token / 16, column pair, token, column
//   values  [32][value_size][2]        token pair, column, token
struct HeadShape {
  int key_size, value_size;
  int64_t page_elements() const { return int64_t(kPageTokens) * (key_size + value_size); }
  int partial_floats() const { return kPartialHeader + value_size; }
};

void write_key(uint16_t* page, HeadShape shape, int slot, const float* key);
// Also clears the slot after an even one, which is multiplied by zero until it is written: it must not hold a NaN.
void write_value(uint16_t* page, HeadShape shape, int slot, const float* value, bool clear_next);

struct AttentionScratch {
  alignas(64) float scores[kQueryTile][kPageTokens];
  alignas(64) uint16_t weights[kQueryTile][kPageTokens];
};

// Partials of `count` <= kQueryTile queries (bfloat16, scaled by log2(e) / sqrt(K)) over one page, of which query i sees the
// first visible[i] > 0 tokens.
void attend_page(const uint16_t* page, HeadShape shape, int count, const uint16_t* const* queries, const int* visible,
                 float* const* partials, AttentionScratch& scratch);
// state = state merged with partial; a state whose sum is zero is empty.
void merge_partial(float* state, const float* partial, int value_size);
void finish_partial(const float* state, int value_size, float* out);

}  // namespace fathom
