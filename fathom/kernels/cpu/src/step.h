// One step of a model over a flat batch of rows (tokens), on all threads at once: stages with barriers between them.
//   step.cpp          the way of a step, embedding, feed-forward, logits
//   grouped.cpp       grouped-query attention before and after attention itself
//   latent.cpp        the same of latent attention, in its absorbed form
//   over_pages.cpp    attention over the pages of all sequences
//   experts.cpp       mixtures of experts
#pragma once
#include <atomic>
#include <initializer_list>
#include <vector>

#include "model.h"
#include "multiply.h"

namespace fathom {

inline constexpr float kLog2E = 1.44269504f;  // scores are to base 2
inline constexpr int kFewRows = 4;            // up to here every thread prepares all rows for itself

// Root-mean-square norm (Zhang and Sennrich 2019). `columns` counts the padding, `size` does not.
void rms_norm(const float* x, const float* weight, int columns, int size, float epsilon, float* out);
// Half-split rotation, as in Hugging Face's Llama: pairs (i, i + half).
void rotate(const float* x, const float* cosine, const float* sine, int half, float factor, float* out);

class Step {
 public:
  Step(Model& model, std::vector<Sequence>& sequences, float* logits);
  void run(int id);
  void predict(int depth, int id);
  int rows() const { return int(rows_.size()); }

 private:
  struct Row {
    int sequence, position;
    int level;  // which row of the last step it belongs to
    int32_t token;
  };
  // Queries of some tokens of a sequence and some heads that share a key/value head, over some pages.
  struct AttentionUnit {
    int sequence, kv_head, first_head, heads, first_token, tokens, first_page, last_page;
  };
  // Rows that go through the same feed-forward weights: [first, first + count) of the routed rows, or all rows (shared).
  struct ExpertRows {
    int expert, first, count;
  };

  void lay_out_rows();
  void lay_out_attention();
  void reserve();

  void embed(int id);
  void block(int index, int id);
  void write_logits(const std::vector<float>& norm, int id);
  void merge(const Layer& layer, int id);
  void keep_level(const std::vector<float>& norm, int id);
  void feed_forward(const Layer& layer, int id);
  void gate_and_up(const Matrix& gate, const Matrix& up, int part, Range blocks, const Activations& x, Range rows, Buffer& out, int width,
                   const Additions& gate_more = {}, const Additions& up_more = {});
  void add_down(const Layer& layer, Range blocks, int id);

  void project(const Layer& layer, int id);
  void rotate_and_cache(const Layer& layer, int index, int id);
  void add_output(const Layer& layer, int id);

  void project_latents(const Layer& layer, int id);
  void cache_latents(const Layer& layer, int index, int id);
  void absorb_queries(const Layer& layer, int id);
  void expand_values(const Layer& layer, int id);

  void attend(const Layer& weights, int layer, int id);
  void attend_unit(const AttentionUnit& unit, int layer, int id);
  const float* attended_head(int row, int head, float* to);

  void mixture(const Layer& layer, int id);
  void route(const Layer& layer, int first, int last);
  void sort_by_expert();

  void barrier() { m_.pool_.barrier.wait(); }
  // The same when this thread's share of w comes next.
  void barrier_before(const Matrix& w, int id) {
    if (rows() <= kFewRows) prefetch_start(w, my_share(w.blocks, id));
    barrier();
  }
  Range my_share(int64_t n, int id) const { return share(n, id, m_.pool_.active()); }
  static int used_pages(const Sequence& s) { return (s.start + s.count - 1) / kPageTokens + 1; }
  const float* cosine(int position) const { return m_.cosine_.data() + int64_t(position) * (c_.rotary_size() / 2); }
  const float* sine(int position) const { return m_.sine_.data() + int64_t(position) * (c_.rotary_size() / 2); }
  uint16_t* page_of(const Row& row, int layer, int kv_head) {
    return m_.page(sequences_[size_t(row.sequence)].pages[row.position / kPageTokens], layer, kv_head);
  }
  bool last_of_sequence(const Row& row) const {
    const Sequence& s = sequences_[size_t(row.sequence)];
    return row.position + 1 == s.start + s.count;
  }

  float* hidden(int row) { return s_.hidden.as<float>() + int64_t(row) * hidden_columns_; }
  float* level(int row) { return s_.levels.as<float>() + int64_t(rows_[size_t(row)].level) * hidden_columns_; }
  float* projected(int row) { return s_.projected.as<float>() + int64_t(row) * projected_columns_; }
  uint16_t* query(int row, int head) { return s_.queries.as<uint16_t>() + (int64_t(row) * c_.heads + head) * m_.head.key_size; }
  float* context(int row) { return s_.context.as<float>() + int64_t(row) * context_columns_; }
  float* attended(int row) { return s_.attended.as<float>() + int64_t(row) * attended_columns_; }
  float* activated(int row) { return s_.activated.as<float>() + int64_t(row) * activated_columns_; }
  float* partial(const Sequence& s, int token, int head, int page) {
    int64_t index = (int64_t(token) * c_.heads + head) * used_pages(s) + page;
    return s_.partials.as<float>() + s.partials + index * m_.head.partial_floats();
  }

  // `layer` and `roles`: the weights that will read the rows, where adapters may change these; the rows are then all of the step.
  using Roles = std::initializer_list<MatrixRole>;
  template <class Fill>
  const Activations& prepare(int rows, int columns, int needs, int id, Fill fill, const Layer* layer = nullptr, Roles roles = {});
  template <class Fill>
  void prepare_shared(Activations& x, int rows, int columns, int needs, int id, Fill fill);
  // The usual case: the normalised residual stream.
  const Activations& prepare_normed(const Layer& layer, VectorRole norm, int needs, int id, Roles roles);
  void reduce(const Layer& layer, Roles roles, const Activations& x, Range rows, OwnActivations* inner);
  Additions additions(const Layer& layer, MatrixRole role, const Activations& inner) const {
    return {adapters_.data(), term_of(int(&layer - m_.layers_.data()), role), &inner};
  }
  // What adapters add to the product that was `product`-th of the roles that its rows were prepared for.
  Additions additions(const Layer& layer, MatrixRole role, int product, int id) const {
    if (adapters_.empty()) return {};
    return additions(layer, role, (rows() <= kFewRows ? m_.threads_[size_t(id)]->few_inner : s_.inner)[product]);
  }

  Model& m_;
  Scratch& s_;
  const Config& c_;
  std::vector<Sequence>& sequences_;
  float* logits_;
  const int hidden_columns_, projected_columns_, context_columns_, attended_columns_, activated_columns_;
  std::vector<Row> rows_;
  std::vector<int> wanted_;  // rows whose logits are asked for
  std::vector<const Adapter*> adapters_;  // of every row; empty when no row has one
  std::vector<AttentionUnit> units_;
  std::atomic<int> next_unit_[2]{};  // of even and odd layers: one is reset while the other is used
  // Of the current layer's mixture of experts:
  std::vector<int> chosen_;          // [rows * active] experts
  std::vector<float> chosen_weight_;
  std::vector<int> routed_row_;      // rows in the order of their experts
  std::vector<float> routed_weight_;
  std::vector<ExpertRows> groups_;
};

// Brings rows into the representations that the next product needs. fill(row, to) returns the row's values, which it may have
// written to `to`. For more than a few rows the threads share the work and wait for each other. Whoever prepares a row also makes
// what its adapter needs of it, so that adapters cost no barrier.
template <class Fill>
const Activations& Step::prepare(int rows, int columns, int needs, int id, Fill fill, const Layer* layer, Roles roles) {
  const bool few = rows <= kFewRows, adapted = layer && !adapters_.empty();
  ThreadScratch& own = *m_.threads_[size_t(id)];
  Activations& x = few ? own.few : s_.rows;
  if (few || id == 0) x.columns = columns;
  const Range mine = few ? Range{0, rows} : my_share(rows, id);
  for (int row = mine.first; row < mine.last; row++) {
    const int also = adapted && adapters_[size_t(row)] ? adapters_[size_t(row)]->needs : 0;
    x.represent(row, columns, fill(row, x.values + int64_t(row) * columns), needs | also);
  }
  if (adapted) reduce(*layer, roles, x.with(columns), mine, few ? own.few_inner : s_.inner);
  if (!few) barrier();
  return x;
}

template <class Fill>
void Step::prepare_shared(Activations& x, int rows, int columns, int needs, int id, Fill fill) {
  if (id == 0) x.columns = columns;
  Range mine = my_share(rows, id);
  for (int row = mine.first; row < mine.last; row++) x.represent(row, columns, fill(row, x.values + int64_t(row) * columns), needs);
  barrier();
}

}  // namespace fathom
