#include "attention.h"

#include <algorithm>
#include <cmath>

#include "simd.h"

namespace fathom {
namespace {

#if defined(FATHOM_AVX512)
constexpr int kScoreRows = 8, kValueRows = 4;
#elif defined(FATHOM_AVX2)
constexpr int kScoreRows = 2, kValueRows = 1;
#else
constexpr int kScoreRows = 1, kValueRows = 1;
#endif
constexpr int kBlock = 16;  // tokens of a key block

// scores[row][token] for `blocks` blocks of 16 tokens.
template <int Rows>
void score(const uint16_t* keys, int key_size, int blocks, const uint16_t* const* queries, float (*scores)[kPageTokens]) {
  for (int block = 0; block < blocks; block++, keys += kBlock * key_size) {
    F32 sums[Rows][2];
    for (int r = 0; r < Rows; r++) sums[r][0] = sums[r][1] = F32::zero();
    for (int k = 0; k < key_size; k += 4)
      for (int odd = 0; odd < 2; odd++)
        for (int r = 0; r < Rows; r++)
          sums[r][odd] = dot_bf16(sums[r][odd], keys + (k + 2 * odd) * kBlock, queries[r] + k + 2 * odd);
    for (int r = 0; r < Rows; r++) (sums[r][0] + sums[r][1]).store(scores[r] + block * kBlock);
  }
}

// Weighted sums of Vectors * 16 columns of the values of `pairs` pairs of tokens.
template <int Rows, int Vectors>
void weigh(const uint16_t* values, int value_size, int pairs, const uint16_t (*weights)[kPageTokens], int column,
           float* const* partials) {
  F32 sums[Rows][Vectors];
  for (int r = 0; r < Rows; r++)
    for (int v = 0; v < Vectors; v++) sums[r][v] = F32::zero();
  values += column * 2;
  for (int pair = 0; pair < pairs; pair++, values += value_size * 2)
    for (int v = 0; v < Vectors; v++)
      for (int r = 0; r < Rows; r++) sums[r][v] = dot_bf16(sums[r][v], values + v * kLanes * 2, weights[r] + pair * 2);
  for (int r = 0; r < Rows; r++)
    for (int v = 0; v < Vectors; v++) sums[r][v].store(partials[r] + kPartialHeader + column + v * kLanes);
}

template <int Rows>
void weigh_columns(const uint16_t* values, int value_size, int pairs, const uint16_t (*weights)[kPageTokens],
                   float* const* partials) {
  int column = 0;
  for (; column + 64 <= value_size; column += 64) weigh<Rows, 4>(values, value_size, pairs, weights, column, partials);
  for (; column < value_size; column += kLanes) weigh<Rows, 1>(values, value_size, pairs, weights, column, partials);
}

// Scores to weights 2^(score - maximum), in bfloat16; maximum and float32 sum go into the partial's header.
void softmax(float* scores, uint16_t* weights, int visible, float* partial) {
  const float none = -INFINITY;
  int vectors = (visible + kLanes - 1) / kLanes;
  F32 largest = F32::set(none);
  for (int i = 0; i < vectors; i++) {
    F32 s = keep_first(F32::load(scores + i * kLanes), std::min(visible - i * kLanes, kLanes), none);
    s.store(scores + i * kLanes);
    largest = max(largest, s);
  }
  float top = maximum(largest);
  F32 total = F32::zero();
  for (int i = 0; i < kPageTokens / kLanes; i++) {
    F32 weight = F32::zero();
    if (i < vectors) weight = keep_first(exp2(F32::load(scores + i * kLanes) - F32::set(top)), std::min(visible - i * kLanes, kLanes), 0);
    total = total + weight;
    store_bf16(weights + i * kLanes, weight);
  }
  partial[0] = top, partial[1] = sum(total);
}

// f(first, number of rows) for tiles of Rows, then one for the rest.
template <int Rows, class Function>
void in_tiles(int done, int count, Function f) {
  for (; done + Rows <= count; done += Rows) f(done, std::integral_constant<int, Rows>{});
  if constexpr (Rows > 1) in_tiles<Rows - 1>(done, count, f);
}

}  // namespace

void write_key(uint16_t* page, HeadShape shape, int slot, const float* key) {
  uint16_t* to = page + int64_t(slot / kBlock) * kBlock * shape.key_size + slot % kBlock * 2;
  for (int k = 0; k < shape.key_size; k += 2, to += kBlock * 2) to[0] = bf16_from(key[k]), to[1] = bf16_from(key[k + 1]);
}

void write_value(uint16_t* page, HeadShape shape, int slot, const float* value, bool clear_next) {
  uint16_t* to = page + int64_t(kPageTokens) * shape.key_size + int64_t(slot / 2) * shape.value_size * 2 + slot % 2;
  for (int k = 0; k < shape.value_size; k++) to[k * 2] = bf16_from(value[k]);
  if (slot % 2 == 0 && clear_next)
    for (int k = 0; k < shape.value_size; k++) to[k * 2 + 1] = 0;
}

void attend_page(const uint16_t* page, HeadShape shape, int count, const uint16_t* const* queries, const int* visible,
                 float* const* partials, AttentionScratch& scratch) {
  const int most = *std::max_element(visible, visible + count);
  const uint16_t* values = page + int64_t(kPageTokens) * shape.key_size;
  for (int k = 0; k < (most + 1) / 2 * 2 * shape.value_size; k += 32) prefetch(values + k);  // while the scores are computed
  in_tiles<kScoreRows>(0, count, [&](int row, auto rows) {
    score<rows>(page, shape.key_size, (most + kBlock - 1) / kBlock, queries + row, scratch.scores + row);
  });
  for (int row = 0; row < count; row++) softmax(scratch.scores[row], scratch.weights[row], visible[row], partials[row]);
  in_tiles<kValueRows>(0, count, [&](int row, auto rows) {
    weigh_columns<rows>(values, shape.value_size, (most + 1) / 2, scratch.weights + row, partials + row);
  });
}

void merge_partial(float* state, const float* partial, int value_size) {
  if (state[1] == 0) {
    std::memcpy(state, partial, size_t(kPartialHeader + value_size) * sizeof(float));
    return;
  }
  float top = std::max(state[0], partial[0]);
  F32 old_factor = exp2(F32::set(state[0] - top)), new_factor = exp2(F32::set(partial[0] - top));
  F32 total = fma(F32::set(partial[1]), new_factor, F32::set(state[1]) * old_factor);
  float first[kLanes];
  total.store(first);
  state[0] = top, state[1] = first[0];
  for (int k = 0; k < value_size; k += kLanes) {
    float* to = state + kPartialHeader + k;
    fma(F32::load(partial + kPartialHeader + k), new_factor, F32::load(to) * old_factor).store(to);
  }
}

void finish_partial(const float* state, int value_size, float* out) {
  F32 inverse = F32::set(1.0f / state[1]);
  for (int k = 0; k < value_size; k += kLanes) (F32::load(state + kPartialHeader + k) * inverse).store(out + k);
}

}  // namespace fathom
