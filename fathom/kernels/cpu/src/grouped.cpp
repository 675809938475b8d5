// Grouped-query attention: queries, keys and values of every row, and what comes back into the residual stream.
#include <cstring>

#include "step.h"

namespace fathom {

void Step::project(const Layer& layer, int id) {
  struct Projection {
    MatrixRole matrix;
    VectorRole bias;
  };
  constexpr Projection projections[] = {{MatrixRole::kQuery, VectorRole::kQueryBias}, {MatrixRole::kKey, VectorRole::kKeyBias},
                                        {MatrixRole::kValue, VectorRole::kValueBias}};
  int needs = 0, blocks = 0, before = 0, product = 0;
  for (const Projection& p : projections) needs |= layer[p.matrix].kernel->needs, blocks += layer[p.matrix].blocks;
  const Activations& x = prepare_normed(layer, VectorRole::kAttentionNorm, needs, id, {MatrixRole::kQuery, MatrixRole::kKey, MatrixRole::kValue});
  const Range mine = my_share(blocks, id);
  for (const Projection& p : projections) {
    const Matrix& w = layer[p.matrix];
    const float* bias = layer.bias(p.bias);
    Range own{std::max(mine.first - before, 0), std::min(mine.last - before, w.blocks)};
    auto write = [&](int row, int block, F32 value) {
      if (bias) value = value + F32::load(bias + block * kBlockRows);
      value.store(projected(row) + (before + block) * kBlockRows);
    };
    multiply(w, own, x, rows(), write, additions(layer, p.matrix, product++, id));
    before += w.blocks;
  }
  barrier();
}

void Step::rotate_and_cache(const Layer& layer, int index, int id) {
  const int size = c_.head_size, half = size / 2, units = c_.heads + c_.kv_heads;
  const int key_column = layer[MatrixRole::kQuery].blocks * kBlockRows, value_column = key_column + layer[MatrixRole::kKey].blocks * kBlockRows;
  float* rotated = m_.threads_[size_t(id)]->entry.data();
  const Range mine = my_share(int64_t(rows()) * units, id);
  for (int unit = mine.first; unit < mine.last; unit++) {
    const int row = unit / units, h = unit % units, kv = h - c_.heads;
    const Row& at = rows_[size_t(row)];
    if (kv < 0) {
      rotate(projected(row) + h * size, cosine(at.position), sine(at.position), half, c_.attention_scale * kLog2E, rotated);
      for (int k = 0; k < size; k += kLanes) store_bf16(query(row, h) + k, F32::load(rotated + k));
      continue;
    }
    uint16_t* page = page_of(at, index, kv);
    rotate(projected(row) + key_column + kv * size, cosine(at.position), sine(at.position), half, 1.0f, rotated);
    write_key(page, m_.head, at.position % kPageTokens, rotated);
    write_value(page, m_.head, at.position % kPageTokens, projected(row) + value_column + kv * size, last_of_sequence(at));
  }
  barrier();
}

// hidden += output projection of what attention (or the expansion of its latents) returned.
void Step::add_output(const Layer& layer, int id) {
  const Matrix& w = layer[MatrixRole::kOutput];
  const float* bias = layer.bias(VectorRole::kOutputBias);
  const int size = c_.output_size();
  auto fill = [&](int row, float* to) -> const float* {
    if (c_.latent()) return attended(row);
    if (sequences_[size_t(rows_[size_t(row)].sequence)].partials < 0) return context(row);
    std::memset(to + c_.heads * size, 0, size_t(attended_columns_ - c_.heads * size) * sizeof(float));
    for (int h = 0; h < c_.heads; h++) attended_head(row, h, to + h * size);
    return to;
  };
  const Activations& x = prepare(rows(), attended_columns_, w.kernel->needs, id, fill, &layer, {MatrixRole::kOutput});
  auto add = [&](int row, int block, F32 value) {
    float* to = hidden(row) + block * kBlockRows;
    if (bias) value = value + F32::load(bias + block * kBlockRows);
    (F32::load(to) + value).store(to);
  };
  multiply(w, my_share(w.blocks, id), x, rows(), add, additions(layer, MatrixRole::kOutput, 0, id));
  const Matrix& next = layer[layer[MatrixRole::kRouter] ? MatrixRole::kRouter : MatrixRole::kGate];
  barrier_before(next, id);
}

}  // namespace fathom
