// Multi-head latent attention (DeepSeek-V2, section 2.1 and appendix C) in its absorbed form: the expansion of the cached
// latents to keys is folded into the queries, that to values into the outputs, and all heads attend over the latents as they
// lie, as one key/value head. Rows of the weights that feed the rotated parts come in half-split order (native_runner.py).
#include <cstring>

#include "step.h"

namespace fathom {

// Both latents of every row: [query latent, or whole queries][key/value latent ; rotary key]. With a query latent, then the
// queries out of it.
void Step::project_latents(const Layer& layer, int id) {
  const MatrixRole first_role = c_.query_rank ? MatrixRole::kQueryDown : MatrixRole::kQuery;
  const Matrix &first = layer[first_role], &latent = layer[MatrixRole::kLatent];
  const Activations& x = prepare_normed(layer, VectorRole::kAttentionNorm, first.kernel->needs | latent.kernel->needs, id, {first_role, MatrixRole::kLatent});
  const Range mine = my_share(first.blocks + latent.blocks, id);
  multiply(first, {mine.first, std::min(mine.last, first.blocks)}, x, rows(),
           [&](int row, int block, F32 value) { value.store(projected(row) + block * kBlockRows); },
           additions(layer, first_role, 0, id));
  multiply(latent, {std::max(mine.first - first.blocks, 0), mine.last - first.blocks}, x, rows(),
           [&](int row, int block, F32 value) { value.store(projected(row) + (first.blocks + block) * kBlockRows); },
           additions(layer, MatrixRole::kLatent, 1, id));
  barrier();
  if (!c_.query_rank) return;
  const Matrix& query = layer[MatrixRole::kQuery];
  const int columns = round_up(c_.query_rank, kGroup);
  auto fill = [&](int row, float* to) {
    rms_norm(projected(row), layer[VectorRole::kQueryNorm].data(), columns, c_.query_rank, c_.latent_norm_epsilon, to);
    return to;
  };
  const Activations& y = prepare(rows(), columns, query.kernel->needs, id, fill, &layer, {MatrixRole::kQuery});
  multiply(query, my_share(query.blocks, id), y, rows(),
           [&](int row, int block, F32 value) { value.store(s_.expanded.as<float>() + (int64_t(row) * query.blocks + block) * kBlockRows); },
           additions(layer, MatrixRole::kQuery, 0, id));
  barrier();
}

// Writes the cache entry of every row, the rotated part of its queries, and prepares their plain part for absorption.
void Step::cache_latents(const Layer& layer, int index, int id) {
  const int half = c_.rope_size / 2, rank = c_.latent_rank, query_columns = layer[MatrixRole::kQuery].blocks * kBlockRows;
  const int latent_column = projected_columns_ - round_up(rank + c_.rope_size, kGroup);
  const float* queries = c_.query_rank ? s_.expanded.as<float>() : s_.projected.as<float>();
  const int64_t stride = c_.query_rank ? query_columns : projected_columns_;
  float* entry = m_.threads_[size_t(id)]->entry.data();
  alignas(64) float rotated[4096];
  auto query_of = [&](int row, int h) { return queries + row * stride + int64_t(h) * c_.query_size(); };
  const Range mine = my_share(rows(), id);
  for (int row = mine.first; row < mine.last; row++) {
    const Row& at = rows_[size_t(row)];
    const float *latent = projected(row) + latent_column, *cos = cosine(at.position), *sin = sine(at.position);
    rms_norm(latent, layer[VectorRole::kLatentNorm].data(), rank, rank, c_.latent_norm_epsilon, entry);
    rotate(latent + rank, cos, sin, half, 1.0f, entry + rank);
    uint16_t* page = page_of(at, index, 0);
    write_key(page, m_.head, at.position % kPageTokens, entry);
    write_value(page, m_.head, at.position % kPageTokens, entry, last_of_sequence(at));
    for (int h = 0; h < c_.heads; h++) {
      rotate(query_of(row, h) + c_.nope_size, cos, sin, half, c_.attention_scale * kLog2E, rotated);
      for (int k = 0; k < c_.rope_size; k += kLanes) store_bf16(query(row, h) + rank + k, F32::load(rotated + k));
    }
  }
  // Rows of one head lie together: each head has weights of its own.
  const int columns = round_up(c_.nope_size, kGroup);
  prepare_shared(s_.heads, rows() * c_.heads, columns, layer[MatrixRole::kKeyUp].kernel->needs, id, [&](int i, float* to) {
    std::memcpy(to, query_of(i % rows(), i / rows()), size_t(c_.nope_size) * sizeof(float));
    std::memset(to + c_.nope_size, 0, size_t(columns - c_.nope_size) * sizeof(float));
    return to;
  });
}

void Step::absorb_queries(const Layer& layer, int id) {
  const Matrix& w = layer[MatrixRole::kKeyUp];
  const int blocks = c_.latent_rank / kBlockRows;  // of a head, without padding
  const F32 scale = F32::set(c_.attention_scale * kLog2E);
  const Range mine = my_share(int64_t(c_.heads) * blocks, id);
  for (int i = mine.first; i < mine.last; i++) {
    const int h = i / blocks, block = i % blocks, first = h * rows();
    multiply_block(w, h * w.blocks + block, s_.heads, first, first + rows(),
                   [&](int row, F32 value) { store_bf16(query(row - first, h) + block * kBlockRows, value * scale); });
  }
  barrier();
}

// Values of every head out of its weighted latent.
void Step::expand_values(const Layer& layer, int id) {
  const Matrix& w = layer[MatrixRole::kValueUp];
  const int rank = c_.latent_rank, columns = round_up(rank, kGroup), blocks = c_.value_size / kBlockRows;
  prepare_shared(s_.heads, rows() * c_.heads, columns, w.kernel->needs, id, [&](int i, float* to) {
    attended_head(i % rows(), i / rows(), to);
    std::memset(to + rank, 0, size_t(columns - rank) * sizeof(float));
    return to;
  });
  const Range mine = my_share(int64_t(c_.heads) * blocks, id);
  for (int i = mine.first; i < mine.last; i++) {
    const int h = i / blocks, block = i % blocks, first = h * rows();
    multiply_block(w, h * w.blocks + block, s_.heads, first, first + rows(),
                   [&](int row, F32 value) { value.store(attended(row - first) + h * c_.value_size + block * kBlockRows); });
  }
  barrier();
}

}  // namespace fathom
