#include "step.h"

#include <cmath>
#include <cstring>

namespace fathom {

void rms_norm(const float* x, const float* weight, int columns, int size, float epsilon, float* out) {
  F32 squares = F32::zero();
  for (int k = 0; k < columns; k += kLanes) squares = fma(F32::load(x + k), F32::load(x + k), squares);
  F32 inverse = F32::set(1.0f / std::sqrt(sum(squares) / float(size) + epsilon));
  for (int k = 0; k < columns; k += kLanes) (F32::load(x + k) * inverse * F32::load(weight + k)).store(out + k);
}

void rotate(const float* x, const float* cosine, const float* sine, int half, float factor, float* out) {
  for (int i = 0; i < half; i++) {
    out[i] = (x[i] * cosine[i] - x[i + half] * sine[i]) * factor;
    out[i + half] = (x[i + half] * cosine[i] + x[i] * sine[i]) * factor;
  }
}

namespace {

int projected_width(const Config& c) {
  if (c.latent()) return round_up(c.query_rank ? c.query_rank : c.heads * c.query_size(), kGroup) + round_up(c.latent_rank + c.rope_size, kGroup);
  return round_up(c.heads * c.head_size, kGroup) + 2 * round_up(c.kv_heads * c.head_size, kGroup);
}

}  // namespace

Step::Step(Model& model, std::vector<Sequence>& sequences, float* logits)
    : m_(model),
      s_(model.scratch_),
      c_(model.config),
      sequences_(sequences),
      logits_(logits),
      hidden_columns_(round_up(c_.hidden, kGroup)),
      projected_columns_(projected_width(c_)),
      context_columns_(round_up(c_.heads * model.head.value_size, kGroup)),
      attended_columns_(round_up(c_.heads * c_.output_size(), kGroup)),
      activated_columns_(round_up(std::max(c_.feed_forward, c_.shared_width), kGroup)) {
  lay_out_rows();
  lay_out_attention();
  reserve();
}

void Step::lay_out_rows() {
  bool adapted = false;
  for (size_t i = 0; i < sequences_.size(); i++) {
    Sequence& s = sequences_[i];
    s.first_row = rows();
    const Adapter* adapter = s.adapter < 0 ? nullptr : m_.adapters_[size_t(s.adapter)].get();
    if (adapter) adapted = true;
    adapters_.insert(adapters_.end(), size_t(s.count), adapter);
    for (int t = 0; t < s.count; t++) {
      if (t >= s.logits_from) wanted_.push_back(rows());
      rows_.push_back({int(i), s.start + t, s.level_row < 0 ? rows() : s.level_row + t, s.tokens[t]});
    }
  }
  if (!adapted) adapters_.clear();
}

void Step::reserve() {
  const size_t n = rows_.size(), f = sizeof(float);
  const int merged = c_.predictions ? 2 * hidden_columns_ : 0;
  const int widest = std::max({hidden_columns_, context_columns_, attended_columns_, activated_columns_, projected_columns_, merged});
  s_.hidden.reserve(n * size_t(hidden_columns_) * f);
  if (c_.predictions && sequences_.front().level_row < 0) s_.levels.reserve(n * size_t(hidden_columns_) * f);
  s_.projected.reserve(n * size_t(projected_columns_) * f);
  s_.queries.reserve(n * size_t(c_.heads) * size_t(m_.head.key_size) * sizeof(uint16_t));
  s_.context.reserve(n * size_t(context_columns_) * f);
  s_.activated.reserve(n * size_t(activated_columns_) * f);
  s_.rows.reserve(rows(), widest);
  if (c_.latent()) {
    s_.expanded.reserve(n * size_t(round_up(c_.heads * c_.query_size(), kGroup)) * f);
    s_.attended.reserve(n * size_t(attended_columns_) * f);
    s_.heads.reserve(rows() * c_.heads, round_up(std::max(c_.nope_size, c_.latent_rank), kGroup));
  }
  if (c_.experts) {
    const int routed = rows() * c_.active_experts, width = round_up(c_.expert_width, kGroup);
    s_.router.reserve(n * size_t(round_up(c_.experts, kGroup)) * f);
    s_.routed.reserve(size_t(routed) * size_t(width) * f);
    s_.routed_rows.reserve(routed, hidden_columns_);
    s_.routed_activated.reserve(routed, width);
    chosen_.resize(size_t(routed)), chosen_weight_.resize(size_t(routed));
    routed_row_.resize(size_t(routed)), routed_weight_.resize(size_t(routed));
  }
  int inner = 0;
  for (const Adapter* adapter : adapters_) inner = std::max(inner, adapter ? round_up(adapter->rank, kGroup) : 0);
  auto reserve_inner = [&](OwnActivations* of_products, int count) {
    for (int i = 0; inner && i < kProducts; i++) of_products[i].reserve(count, inner), of_products[i].columns = inner;
  };
  reserve_inner(s_.inner, rows());
  for (auto& thread : m_.threads_) {
    reserve_inner(thread->few_inner, kFewRows);
    thread->few.reserve(kFewRows, widest);
    thread->states.reserve(size_t(2 * kQueryTile * m_.head.partial_floats()) * f);
  }
}

void Step::run(int id) {
  embed(id);
  for (int l = 0; l < c_.layers; l++) block(l, id);
  if (c_.predictions) keep_level(m_.whole_[VectorRole::kFinalNorm], id);
  if (!wanted_.empty()) write_logits(m_.whole_[VectorRole::kFinalNorm], id);
}

// Multi-token prediction (V3, section 2.2): the level before, and the token that follows it, through one more block.
void Step::predict(int depth, int id) {
  const Layer& layer = m_.layers_[size_t(c_.layers + depth)];
  merge(layer, id);
  block(c_.layers + depth, id);
  keep_level(layer[VectorRole::kHeadNorm], id);
  if (!wanted_.empty()) write_logits(layer[VectorRole::kHeadNorm], id);
}

void Step::block(int index, int id) {
  const Layer& layer = m_.layers_[size_t(index)];
  if (c_.latent()) {
    project_latents(layer, id);
    cache_latents(layer, index, id);
    absorb_queries(layer, id);
  } else {
    project(layer, id);
    rotate_and_cache(layer, index, id);
  }
  attend(layer, index, id);
  if (c_.latent()) expand_values(layer, id);
  add_output(layer, id);
  if (layer[MatrixRole::kRouter]) mixture(layer, id);
  else feed_forward(layer, id);
}

// hidden = merge projection of [normalised embedding ; normalised level].
void Step::merge(const Layer& layer, int id) {
  const Matrix& w = layer[MatrixRole::kMerge];
  const int columns = w.groups * kGroup;
  float* embedded = m_.threads_[size_t(id)]->embedded.data();
  const Activations& x = prepare(rows(), columns, w.kernel->needs, id, [&](int row, float* to) {
    m_.whole_[MatrixRole::kEmbedding].row_values(rows_[size_t(row)].token, embedded);
    rms_norm(embedded, layer[VectorRole::kEmbeddingNorm].data(), hidden_columns_, c_.hidden, c_.norm_epsilon, to);
    rms_norm(level(row), layer[VectorRole::kHiddenNorm].data(), hidden_columns_, c_.hidden, c_.norm_epsilon, embedded);
    std::memcpy(to + c_.hidden, embedded, size_t(c_.hidden) * sizeof(float));
    std::memset(to + 2 * c_.hidden, 0, size_t(columns - 2 * c_.hidden) * sizeof(float));
    return to;
  });
  multiply(w, my_share(w.blocks, id), x, rows(), [&](int row, int block, F32 value) { value.store(hidden(row) + block * kBlockRows); });
  barrier();
}

void Step::keep_level(const std::vector<float>& norm, int id) {
  const Range mine = my_share(rows(), id);
  for (int row = mine.first; row < mine.last; row++)
    rms_norm(hidden(row), norm.data(), hidden_columns_, c_.hidden, c_.norm_epsilon, level(row));
}

void Step::embed(int id) {
  Range mine = my_share(rows(), id);
  for (int row = mine.first; row < mine.last; row++) m_.whole_[MatrixRole::kEmbedding].row_values(rows_[size_t(row)].token, hidden(row));
  barrier();
}

const Activations& Step::prepare_normed(const Layer& layer, VectorRole norm, int needs, int id, Roles roles) {
  auto fill = [&](int row, float* to) {
    rms_norm(hidden(row), layer[norm].data(), hidden_columns_, c_.hidden, c_.norm_epsilon, to);
    return to;
  };
  return prepare(rows(), hidden_columns_, needs, id, fill, &layer, roles);
}

// inner[i] = down x of the weight roles[i], for rows that have an adapter for it.
void Step::reduce(const Layer& layer, Roles roles, const Activations& x, Range rows, OwnActivations* inner) {
  for (MatrixRole role : roles) {
    const Additions terms = additions(layer, role, *inner);
    for (int first = rows.first, last; first < rows.last; first = last) {
      const LowRank* term = terms.of(first);
      for (last = first + 1; last < rows.last && terms.of(last) == term;) last++;
      if (!term) continue;
      float* values = inner->values;
      const int columns = inner->columns;
      for (int block = 0; block * kBlockRows < term->rank; block++)
        multiply_block(term->down, block, x, first, last,
                       [&](int row, F32 value) { value.store(values + int64_t(row) * columns + block * kBlockRows); });
      for (int row = first; row < last; row++) inner->represent(row, columns, values + int64_t(row) * columns, term->up.kernel->needs);
    }
    inner++;
  }
}

// out[row] = silu(gate x) * up x for blocks of one part of the matrices; `width` floats a row.
void Step::gate_and_up(const Matrix& gate, const Matrix& up, int part, Range blocks, const Activations& x, Range rows, Buffer& out, int width,
                       const Additions& gate_more, const Additions& up_more) {
  for (int first = rows.first; first < rows.last; first += kRowsPerPass) {
    const int last = std::min(rows.last, first + kRowsPerPass);
    for (int block = blocks.first; block < blocks.last; block++) {
      auto at = [&](int row) { return out.as<float>() + int64_t(row) * width + block * kBlockRows; };
      multiply_block(gate, part * gate.blocks + block, x, first, last, [&](int row, F32 value) { silu(value).store(at(row)); }, gate_more);
      multiply_block(up, part * up.blocks + block, x, first, last, [&](int row, F32 value) { (F32::load(at(row)) * value).store(at(row)); }, up_more);
    }
  }
}

void Step::feed_forward(const Layer& layer, int id) {
  const Matrix &gate = layer[MatrixRole::kGate], &up = layer[MatrixRole::kUp], &down = layer[MatrixRole::kDown];
  const Activations& x = prepare_normed(layer, VectorRole::kFeedForwardNorm, gate.kernel->needs | up.kernel->needs, id, {MatrixRole::kGate, MatrixRole::kUp});
  gate_and_up(gate, up, 0, my_share(gate.blocks, id), x, {0, rows()}, s_.activated, activated_columns_,
              additions(layer, MatrixRole::kGate, 0, id), additions(layer, MatrixRole::kUp, 1, id));
  barrier_before(down, id);
  add_down(layer, my_share(down.blocks, id), id);
  barrier();
}

// hidden += down projection of what gate_and_up left.
void Step::add_down(const Layer& layer, Range blocks, int id) {
  const Matrix& down = layer[MatrixRole::kDown];
  const int columns = layer[MatrixRole::kGate].blocks * kBlockRows;
  const Activations& x = prepare(rows(), columns, down.kernel->needs, id, [&](int row, float*) { return activated(row); }, &layer, {MatrixRole::kDown});
  auto add = [&](int row, int block, F32 value) {
    float* to = hidden(row) + block * kBlockRows;
    (F32::load(to) + value).store(to);
  };
  multiply(down, blocks, x, rows(), add, additions(layer, MatrixRole::kDown, 0, id));
}

void Step::write_logits(const std::vector<float>& norm, int id) {
  const Matrix& w = m_.output_head();
  const int count = int(wanted_.size());
  const Activations& x = prepare(count, hidden_columns_, w.kernel->needs, id, [&](int i, float* to) {
    rms_norm(hidden(wanted_[size_t(i)]), norm.data(), hidden_columns_, c_.hidden, c_.norm_epsilon, to);
    return to;
  });
  const int blocks = round_up(c_.vocabulary, kBlockRows) / kBlockRows;
  multiply(w, my_share(blocks, id), x, count, [&](int row, int block, F32 value) {
    float* to = logits_ + int64_t(row) * c_.vocabulary + block * kBlockRows;
    const int left = c_.vocabulary - block * kBlockRows;
    if (left >= kLanes) value.store(to);
    else value.store_first(to, left);
  });
}

void Model::step(std::vector<Sequence>& sequences, float* logits, int64_t logits_rows) {
  if (sequences.empty()) return;
  check(sequences, logits_rows);
  Step step(*this, sequences, logits);
  level_rows_ = step.rows();
  pool_.run([&](int id) { step.run(id); });
}

void Model::predict(int depth, std::vector<Sequence>& sequences, float* logits, int64_t logits_rows) {
  if (sequences.empty()) return;
  check(sequences, logits_rows);
  check_levels(depth, sequences);
  Step step(*this, sequences, logits);
  pool_.run([&](int id) { step.predict(depth, id); });
}

}  // namespace fathom
