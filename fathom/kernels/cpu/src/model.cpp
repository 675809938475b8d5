#include "model.h"

#include <algorithm>
#include <cstring>
#include <stdexcept>

namespace fathom {
namespace {

struct Size {
  int rows, columns, parts = 1;
};

void require(bool condition, const std::string& message) {
  if (!condition) throw std::invalid_argument(message);
}

Size size_of(const Config& c, MatrixRole role) {
  const int keys = c.kv_heads * c.head_size;
  switch (role) {
    case MatrixRole::kEmbedding:
    case MatrixRole::kHead: return {c.vocabulary, c.hidden};
    case MatrixRole::kQuery: return {c.heads * c.query_size(), c.query_rank ? c.query_rank : c.hidden};
    case MatrixRole::kKey:
    case MatrixRole::kValue: return {keys, c.hidden};
    case MatrixRole::kOutput: return {c.hidden, c.heads * c.output_size()};
    case MatrixRole::kQueryDown: return {c.query_rank, c.hidden};
    case MatrixRole::kLatent: return {c.latent_rank + c.rope_size, c.hidden};
    case MatrixRole::kKeyUp: return {c.latent_rank, c.nope_size, c.heads};
    case MatrixRole::kValueUp: return {c.value_size, c.latent_rank, c.heads};
    case MatrixRole::kGate:
    case MatrixRole::kUp: return {c.feed_forward, c.hidden};
    case MatrixRole::kDown: return {c.hidden, c.feed_forward};
    case MatrixRole::kRouter: return {c.experts, c.hidden};
    case MatrixRole::kExpertGate:
    case MatrixRole::kExpertUp: return {c.expert_width, c.hidden, c.experts};
    case MatrixRole::kExpertDown: return {c.hidden, c.expert_width, c.experts};
    case MatrixRole::kMerge: return {c.hidden, 2 * c.hidden};
    case MatrixRole::kCount: break;
  }
  throw std::invalid_argument("unknown matrix role " + std::to_string(int(role)));
}

int size_of(const Config& c, VectorRole role) {
  switch (role) {
    case VectorRole::kFinalNorm:
    case VectorRole::kAttentionNorm:
    case VectorRole::kFeedForwardNorm:
    case VectorRole::kEmbeddingNorm:
    case VectorRole::kHiddenNorm:
    case VectorRole::kHeadNorm:
    case VectorRole::kOutputBias: return c.hidden;
    case VectorRole::kQueryBias: return c.heads * c.head_size;
    case VectorRole::kKeyBias:
    case VectorRole::kValueBias: return c.kv_heads * c.head_size;
    case VectorRole::kQueryNorm: return c.query_rank;
    case VectorRole::kLatentNorm: return c.latent_rank;
    case VectorRole::kRouterBias: return c.experts;
    case VectorRole::kCount: break;
  }
  throw std::invalid_argument("unknown vector role " + std::to_string(int(role)));
}

void within(int64_t value, int64_t low, int64_t high, const char* name) {
  require(low <= value && value <= high, std::string(name) + " is " + std::to_string(value) + ", expected " +
                                             std::to_string(low) + " to " + std::to_string(high));
}

void check_attention(const Config& c) {
  within(c.heads, 1, 4096, "heads"), within(c.kv_heads, 1, c.heads, "key/value heads");
  if (!c.latent()) {
    within(c.head_size, 16, 4096, "head size");
    require(c.head_size % 16 == 0, "the head size is not a multiple of 16");
    require(c.heads % c.kv_heads == 0, "the heads are not a multiple of the key/value heads");
    return;
  }
  within(c.latent_rank, 16, 4096, "latent rank"), within(c.rope_size, 16, 4096, "rotary part of a head");
  within(c.nope_size, 16, 4096, "plain part of a head"), within(c.value_size, 16, 4096, "value size");
  within(c.query_rank, 0, 1 << 20, "query rank");
  for (int size : {c.latent_rank, c.rope_size, c.nope_size, c.value_size})
    require(size % 16 == 0, "a size of latent attention is not a multiple of 16");
}

void check_experts(const Config& c) {
  if (c.experts == 0) return;
  within(c.experts, 1, 1 << 16, "experts"), within(c.active_experts, 1, c.experts, "active experts");
  within(c.expert_width, 1, 1 << 22, "expert width"), within(c.shared_width, 0, 1 << 22, "shared experts' width");
  within(c.expert_groups, 1, c.experts, "expert groups"), within(c.kept_groups, 1, c.expert_groups, "kept groups");
  within(c.group_score, 0, 2, "group score");
  require(c.experts % c.expert_groups == 0, "the experts are not a multiple of their groups");
  require(c.group_score != int(GroupScore::kTopTwo) || c.experts / c.expert_groups >= 2, "groups of one expert have no second best");
  require(c.group_score == 0 || c.kept_groups * (c.experts / c.expert_groups) >= c.active_experts, "the kept groups hold too few experts");
}

const Config& checked(const Config& c) {
  within(c.layers, 1, 4096, "layers"), within(c.predictions, 0, 64, "prediction modules"), within(c.vocabulary, 1, 1 << 24, "vocabulary"), within(c.hidden, 1, 1 << 20, "hidden size");
  within(c.feed_forward, 1, 1 << 22, "feed-forward width"), within(c.max_context, 1, 1 << 30, "context");
  within(c.pages, 1, 1 << 28, "pages"), within(c.threads, 1, 1024, "threads");
  check_attention(c), check_experts(c);
  return c;
}

// Those that stay one matrix a layer: not the embedding, the router, the experts, nor what latent attention absorbs.
bool takes_adapter(MatrixRole role) {
  switch (role) {
    case MatrixRole::kQuery:
    case MatrixRole::kKey:
    case MatrixRole::kValue:
    case MatrixRole::kOutput:
    case MatrixRole::kQueryDown:
    case MatrixRole::kLatent:
    case MatrixRole::kGate:
    case MatrixRole::kUp:
    case MatrixRole::kDown: return true;
    default: return false;
  }
}

HeadShape cache_shape(const Config& c) {
  if (c.latent()) return {c.latent_rank + c.rope_size, c.latent_rank};
  return {c.head_size, c.head_size};
}

}  // namespace

Model::Model(const Config& c)
    : config(checked(c)),
      head(cache_shape(c)),
      cached_heads(c.latent() ? 1 : c.kv_heads),
      page_bytes(head.page_elements() * 2 * cached_heads * c.all_layers()),
      layers_(size_t(c.all_layers())),
      cache_(size_t(page_bytes) * size_t(c.pages)),
      pool_(c.threads),
      page_seen_(size_t(c.pages)) {
  for (int i = 0; i < c.threads; i++) {
    threads_.push_back(std::make_unique<ThreadScratch>());
    threads_.back()->embedded.resize(size_t(round_up(c.hidden, kGroup)));
    threads_.back()->entry.resize(size_t(round_up(head.key_size, kGroup)));
  }
}

void Model::set_matrix(int layer, MatrixRole role, int part, Type type, int rows, int columns, const uint8_t* stored, int64_t bytes) {
  const bool whole = role == MatrixRole::kEmbedding || role == MatrixRole::kHead;
  require(whole || (0 <= layer && layer < config.all_layers()), "layer " + std::to_string(layer) + " is out of range");
  Size size = size_of(config, role);
  if (role == MatrixRole::kGate || role == MatrixRole::kUp || role == MatrixRole::kDown) {
    int& width = role == MatrixRole::kDown ? size.columns : size.rows;
    if (config.experts && (role == MatrixRole::kDown ? columns : rows) == config.shared_width) width = config.shared_width;
  }
  require(rows == size.rows && columns == size.columns,
          "a matrix of " + std::to_string(rows) + " x " + std::to_string(columns) + " where the configuration says " +
              std::to_string(size.rows) + " x " + std::to_string(size.columns));
  require(0 <= part && part < size.parts, "part " + std::to_string(part) + " is out of range");
  int64_t expected = stored_bytes(type, rows, columns);
  require(expected > 0, "type " + std::to_string(int(type)) + " cannot hold rows of " + std::to_string(columns) + " columns");
  require(bytes == expected, "expected " + std::to_string(expected) + " bytes, got " + std::to_string(bytes));
  Matrix& matrix = (whole ? whole_ : layers_[size_t(layer)]).matrices[int(role)];
  if (part == 0) matrix = make_matrix(type, rows, columns, size.parts, weights_);
  require(matrix && matrix.type == type, "the parts of a matrix are of several types, or the first is missing");
  pool_.run([&](int id) {
    int filled = round_up(rows, kBlockRows) / kBlockRows;  // blocks of padding stay zero
    pack_blocks(matrix, part, stored, int(int64_t(filled) * id / pool_.active()), int(int64_t(filled) * (id + 1) / pool_.active()));
  });
  matrix.filled++;
}

void Model::set_adapter(int adapter, int layer, MatrixRole role, Type type, int rank, int rows, int columns, float scale,
                        const uint8_t* down, const uint8_t* up) {
  require(0 <= layer && layer < config.layers, "layer " + std::to_string(layer) + " is out of range");
  require(takes_adapter(role), "matrix " + std::to_string(int(role)) + " takes no adapter");
  const Matrix& weight = layers_[size_t(layer)][role];
  require(weight && weight.rows == rows && weight.columns == columns,
          "an adapter for " + std::to_string(rows) + " x " + std::to_string(columns) + " does not fit matrix " + std::to_string(int(role)));
  within(adapter, 0, kAdapters - 1, "the adapter's number"), within(rank, 1, 4096, "the adapter's rank");
  require(type == Type::BF16 || type == Type::F32, "adapters are BF16 or F32");
  if (adapters_.size() <= size_t(adapter)) adapters_.resize(size_t(adapter) + 1);
  if (!adapters_[size_t(adapter)]) {
    adapters_[size_t(adapter)] = std::make_unique<Adapter>();
    adapters_[size_t(adapter)]->terms.resize(size_t(config.layers) * size_t(MatrixRole::kCount));
  }
  Adapter& own = *adapters_[size_t(adapter)];
  LowRank& term = own.terms[term_of(layer, role)];
  if (!term.rank) {
    term.down = make_matrix(type, rank, columns, 1, own.memory);
    term.up = make_matrix(type, rows, rank, 1, own.memory);
    term.rank = rank;
    own.needs |= term.down.kernel->needs;
    own.rank = std::max(own.rank, rank);
  }
  require(term.rank == rank && term.down.type == type, "an adapter keeps its rank and type; drop it first");
  term.scale = scale;
  pack_blocks(term.down, 0, down, 0, round_up(rank, kBlockRows) / kBlockRows);
  pack_blocks(term.up, 0, up, 0, round_up(rows, kBlockRows) / kBlockRows);
}

void Model::drop_adapter(int adapter) {
  if (0 <= adapter && size_t(adapter) < adapters_.size()) adapters_[size_t(adapter)].reset();
}

void Model::set_vector(int layer, VectorRole role, int n, const float* values) {
  const bool whole = role == VectorRole::kFinalNorm;
  require(whole || (0 <= layer && layer < config.all_layers()), "layer " + std::to_string(layer) + " is out of range");
  require(n == size_of(config, role), "a vector of " + std::to_string(n) + " where the configuration says " + std::to_string(size_of(config, role)));
  std::vector<float> padded(size_t(round_up(n, kGroup)));
  std::copy(values, values + n, padded.begin());
  (whole ? whole_ : layers_[size_t(layer)]).vectors[int(role)] = std::move(padded);
}

void Model::set_rotary(int positions, int half, const float* cosine, const float* sine) {
  require(positions >= config.max_context, "the rotary table is shorter than the context");
  require(half * 2 == config.rotary_size(), "the rotary table is not half as wide as what is rotated");
  size_t n = size_t(config.max_context) * size_t(half);
  cosine_.assign(cosine, cosine + n), sine_.assign(sine, sine + n);
}

void Model::check_complete() const {
  require(bool(whole_[MatrixRole::kEmbedding]), "the embedding is missing");
  require(!whole_[VectorRole::kFinalNorm].empty(), "the final norm is missing");
  require(!cosine_.empty(), "the rotary table is missing");
  for (int l = 0; l < config.all_layers(); l++) {
    const Layer& layer = layers_[size_t(l)];
    auto matrices = [&](std::initializer_list<MatrixRole> roles) {
      for (MatrixRole role : roles)
        require(layer[role] && layer[role].filled >= layer[role].parts, "layer " + std::to_string(l) + " lacks matrix " + std::to_string(int(role)));
    };
    auto vectors = [&](std::initializer_list<VectorRole> roles) {
      for (VectorRole role : roles) require(!layer[role].empty(), "layer " + std::to_string(l) + " lacks vector " + std::to_string(int(role)));
    };
    vectors({VectorRole::kAttentionNorm, VectorRole::kFeedForwardNorm});
    if (l >= config.layers) matrices({MatrixRole::kMerge}), vectors({VectorRole::kEmbeddingNorm, VectorRole::kHiddenNorm, VectorRole::kHeadNorm});
    matrices({MatrixRole::kQuery, MatrixRole::kOutput});
    if (config.latent()) matrices({MatrixRole::kLatent, MatrixRole::kKeyUp, MatrixRole::kValueUp}), vectors({VectorRole::kLatentNorm});
    else matrices({MatrixRole::kKey, MatrixRole::kValue});
    if (config.query_rank) matrices({MatrixRole::kQueryDown}), vectors({VectorRole::kQueryNorm});
    const bool routed = bool(layer[MatrixRole::kRouter]);
    if (routed) matrices({MatrixRole::kExpertGate, MatrixRole::kExpertUp, MatrixRole::kExpertDown});
    if (!routed || config.shared_width) matrices({MatrixRole::kGate, MatrixRole::kUp, MatrixRole::kDown});
    if (routed && config.shared_width) require(layer[MatrixRole::kGate].rows == config.shared_width, "layer " + std::to_string(l) + " has a dense feed-forward and experts");
    if (!routed) require(layer[MatrixRole::kGate].rows == config.feed_forward, "layer " + std::to_string(l) + " lacks its router");
  }
}

void Model::check(const std::vector<Sequence>& sequences, int64_t logits_rows) {
  int64_t wanted = 0;
  step_number_ += 2;
  for (size_t i = 0; i < sequences.size(); i++) {
    const Sequence& s = sequences[i];
    const std::string who = "sequence " + std::to_string(i) + ": ";
    require(s.count >= 1 && s.start >= 0, who + "no tokens, or a negative start");
    require(int64_t(s.start) + s.count <= config.max_context, who + "longer than the context of " + std::to_string(config.max_context));
    require(int64_t(s.page_count) * kPageTokens >= int64_t(s.start) + s.count, who + "its pages do not cover its tokens");
    require(s.adapter == -1 || (0 <= s.adapter && size_t(s.adapter) < adapters_.size() && adapters_[size_t(s.adapter)]),
            who + "adapter " + std::to_string(s.adapter) + " does not exist");
    require(0 <= s.logits_from && s.logits_from <= s.count, who + "logits_from is out of range");
    for (int t = 0; t < s.count; t++)
      require(0 <= s.tokens[t] && s.tokens[t] < config.vocabulary, who + "token " + std::to_string(s.tokens[t]) + " is not in the vocabulary");
    const int used = (s.start + s.count - 1) / kPageTokens + 1;
    for (int p = 0; p < used; p++) {
      require(0 <= s.pages[p] && s.pages[p] < config.pages, who + "page " + std::to_string(s.pages[p]) + " does not exist");
      // A page that is written may be seen once only in a step; pages that are only read may be shared.
      const bool written = p >= s.start / kPageTokens;
      uint32_t& seen = page_seen_[size_t(s.pages[p])];
      const bool read_before = seen == step_number_, written_before = seen == step_number_ + 1;
      require(!written_before && !(written && read_before), who + "page " + std::to_string(s.pages[p]) + " is written while it is shared");
      seen = step_number_ + (written ? 1 : 0);
    }
    wanted += s.count - s.logits_from;
  }
  require(wanted == logits_rows, "logits for " + std::to_string(wanted) + " rows are asked for, room is for " + std::to_string(logits_rows));
}

void Model::check_levels(int depth, const std::vector<Sequence>& sequences) const {
  within(depth, 0, config.predictions - 1, "the prediction module's depth");
  for (const Sequence& s : sequences)
    require(s.level_row >= 0 && int64_t(s.level_row) + s.count <= level_rows_, "a prediction begins with rows that the last step does not have");
}

}  // namespace fathom
