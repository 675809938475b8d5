// A model's weights, its cache, and what a step keeps between calls.
#pragma once
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "adapters.h"
#include "attention.h"
#include "matrix.h"
#include "threads.h"

namespace fathom {

enum class GroupScore : int32_t { kNone, kMaximum, kTopTwo };  // how groups of experts are ranked: not at all, V2, V3

// Mirrored field by field in library.py.
struct Config {
  int32_t layers, predictions, vocabulary, hidden, heads, kv_heads, head_size, feed_forward;
  int32_t max_context, pages, threads;
  // Latent attention (zero without): ranks of the two latents, sizes of a head's parts. query_rank may be zero alone.
  int32_t query_rank, latent_rank, nope_size, rope_size, value_size;
  // Mixture of experts (zero without).
  int32_t experts, active_experts, expert_width, shared_width, expert_groups, kept_groups, group_score, sigmoid, renormalise;
  float norm_epsilon, latent_norm_epsilon, attention_scale, routed_scale;

  int all_layers() const { return layers + predictions; }  // those of the multi-token prediction modules last
  bool latent() const { return latent_rank > 0; }
  // Width of the rotated part of a head, and of a head's query as projected.
  int rotary_size() const { return latent() ? rope_size : head_size; }
  int query_size() const { return latent() ? nope_size + rope_size : head_size; }
  // What the output projection reads of every head.
  int output_size() const { return latent() ? value_size : head_size; }
};

inline constexpr int kAdapters = 1 << 12;  // numbers of adapters

// The numbers model.py names the weights by.
enum class MatrixRole : int32_t {
  kEmbedding, kHead,
  kQuery, kKey, kValue, kOutput,                // grouped-query attention; kQuery and kOutput of latent attention too
  kQueryDown, kLatent, kKeyUp, kValueUp,        // latent attention; of kKeyUp and kValueUp each head is a part
  kGate, kUp, kDown,                            // feed-forward, or the shared experts
  kRouter, kExpertGate, kExpertUp, kExpertDown, // each expert is a part
  kMerge,                                       // of a prediction module: [embedding ; hidden] to hidden
  kCount
};
enum class VectorRole : int32_t {
  kFinalNorm, kAttentionNorm, kFeedForwardNorm, kQueryBias, kKeyBias, kValueBias, kOutputBias,
  kQueryNorm, kLatentNorm, kRouterBias,
  kEmbeddingNorm, kHiddenNorm, kHeadNorm,       // of a prediction module
  kCount
};

struct Layer {
  Matrix matrices[int(MatrixRole::kCount)];
  std::vector<float> vectors[int(VectorRole::kCount)];  // padded with zeros to a multiple of 32; empty: absent

  const Matrix& operator[](MatrixRole role) const { return matrices[int(role)]; }
  const std::vector<float>& operator[](VectorRole role) const { return vectors[int(role)]; }
  const float* bias(VectorRole role) const { return (*this)[role].empty() ? nullptr : (*this)[role].data(); }
};

// Where an adapter keeps its term for a weight.
inline size_t term_of(int layer, MatrixRole role) { return size_t(layer) * size_t(MatrixRole::kCount) + size_t(role); }

// One sequence's part of a step: `count` tokens after `start` cached ones; logits for tokens[logits_from:].
struct Sequence {
  const int32_t* tokens;
  int count, start;
  const int32_t* pages;
  int page_count, logits_from;
  int adapter;    // -1: none
  int level_row;  // of a prediction: which row of the step before is its first
  // Set by the step:
  int first_row;
  int64_t partials;  // where its attention partials lie, in floats; -1: merged at once
};

inline constexpr int kProducts = 3;  // at most so many products read the same activations: queries, keys, values

// Memory of a step, kept for the next one. Rows are tokens; [rows][...] each.
struct Scratch {
  Buffer hidden;      // the residual stream
  Buffer levels;      // the same at the end, normalised: what prediction modules begin with, and leave
  Buffer projected;   // queries, keys and values, or the two latents, before rotation
  Buffer expanded;    // latent attention: queries out of their latent
  Buffer queries;     // bfloat16, as attention reads them
  Buffer context;     // what attention returns
  Buffer attended;    // what the output projection reads
  Buffer partials;    // of attention, where pages are shared out
  Buffer activated;   // gate * up
  Buffer routed;      // the same of the experts: [rows * active]
  Buffer router;      // scores
  OwnActivations rows, heads, routed_rows, routed_activated;
  OwnActivations inner[kProducts];  // what adapters make of `rows`, for each of the products that read them
};

struct ThreadScratch {
  OwnActivations few;  // a few rows are prepared by every thread for itself, which saves a barrier
  OwnActivations few_inner[kProducts];
  AttentionScratch attention;
  Buffer states;
  std::vector<float> entry;     // one rotated head or cache entry
  std::vector<float> embedded;  // one embedding
};

class Model {
 public:
  explicit Model(const Config& config);

  // `part`: the expert or head for roles with parts, else 0.
  void set_matrix(int layer, MatrixRole role, int part, Type type, int rows, int columns, const uint8_t* stored, int64_t bytes);
  void set_vector(int layer, VectorRole role, int n, const float* values);
  void set_rotary(int positions, int half, const float* cosine, const float* sine);
  // Adds a low-rank term to a weight under an adapter's number, or overwrites one of the same rank and type where it lies.
  void set_adapter(int adapter, int layer, MatrixRole role, Type type, int rank, int rows, int columns, float scale, const uint8_t* down,
                   const uint8_t* up);
  void drop_adapter(int adapter);
  // Throws std::invalid_argument that names the first weight that is missing.
  void check_complete() const;
  // Writes logits[row][vocabulary], rows in the order of the sequences. Throws std::invalid_argument on bad arguments.
  void step(std::vector<Sequence>& sequences, float* logits, int64_t logits_rows);
  // The same through prediction module `depth`, for rows of the last step; tokens are those that follow them by depth + 1.
  void predict(int depth, std::vector<Sequence>& sequences, float* logits, int64_t logits_rows);

  const Config config;
  const HeadShape head;   // of the cache
  const int cached_heads;
  const int64_t page_bytes;
  uint8_t* page_start(int32_t number) const { return reinterpret_cast<uint8_t*>(page(number, 0, 0)); }

 private:
  friend class Step;
  void check(const std::vector<Sequence>& sequences, int64_t logits_rows);
  void check_levels(int depth, const std::vector<Sequence>& sequences) const;
  uint16_t* page(int32_t number, int layer, int kv_head) const {
    return cache_.as<uint16_t>() + number * (page_bytes / 2) + (int64_t(layer) * cached_heads + kv_head) * head.page_elements();
  }
  const Matrix& output_head() const {
    const Matrix& own = whole_[MatrixRole::kHead];
    return own ? own : whole_[MatrixRole::kEmbedding];
  }

  Arena weights_;
  Layer whole_;  // embedding, head, final norm
  std::vector<Layer> layers_;
  std::vector<std::unique_ptr<Adapter>> adapters_;  // by number
  std::vector<float> cosine_, sine_;  // [max_context][rotary_size / 2]
  Buffer cache_;
  Pool pool_;
  std::vector<uint32_t> page_seen_;  // by the step of this number
  uint32_t step_number_ = 0;
  int level_rows_ = 0;  // of the last step
  Scratch scratch_;
  std::vector<std::unique_ptr<ThreadScratch>> threads_;
};

}  // namespace fathom
