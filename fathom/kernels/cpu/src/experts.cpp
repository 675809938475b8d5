// DeepSeekMoE (V2, section 2.2; V3, section 2.1.2): every row goes through its chosen experts and the shared ones. Rows are
// sorted by expert, so that each expert's weights are read once for all its rows and those of the others not at all.
#include <algorithm>
#include <cmath>
#include <cstring>
#include <numeric>

#include "step.h"

namespace fathom {
namespace {

// The `count` largest of scores[0..n), largest first, earlier ones first among equals.
void largest(const float* scores, int n, int count, int* out) {
  for (int taken = 0; taken < count; taken++) {
    int best = -1;
    for (int i = 0; i < n; i++)
      if ((best < 0 || scores[i] > scores[best]) && std::find(out, out + taken, i) == out + taken) best = i;
    out[taken] = best;
  }
}

void softmax(float* x, int n) {
  const float top = *std::max_element(x, x + n);
  float total = 0;
  for (int i = 0; i < n; i++) total += x[i] = std::exp(x[i] - top);
  for (int i = 0; i < n; i++) x[i] /= total;
}

// Experts outside the best groups become minus infinity (zero would win over a negative biased score).
void keep_best_groups(const Config& c, float* scores) {
  const int size = c.experts / c.expert_groups;
  std::vector<float> of_group(size_t(c.expert_groups));
  std::vector<int> kept(size_t(c.kept_groups));
  for (int g = 0; g < c.expert_groups; g++) {
    int best[2];
    const int counted = c.group_score == int(GroupScore::kTopTwo) ? 2 : 1;
    largest(scores + g * size, size, counted, best);
    for (int i = 0; i < counted; i++) of_group[size_t(g)] += scores[g * size + best[i]];
  }
  largest(of_group.data(), c.expert_groups, c.kept_groups, kept.data());
  for (int g = 0; g < c.expert_groups; g++)
    if (std::find(kept.begin(), kept.end(), g) == kept.end()) std::fill(scores + g * size, scores + (g + 1) * size, -INFINITY);
}

}  // namespace

// Chooses the experts of rows [first, last) by their router scores.
void Step::route(const Layer& layer, int first, int last) {
  const int n = c_.experts, k = c_.active_experts;
  std::vector<float> eligible;
  for (int row = first; row < last; row++) {
    float* scores = s_.router.as<float>() + int64_t(row) * layer[MatrixRole::kRouter].blocks * kBlockRows;
    if (c_.sigmoid) std::transform(scores, scores + n, scores, [](float x) { return 1.0f / (1.0f + std::exp(-x)); });
    else softmax(scores, n);
    eligible.assign(scores, scores + n);
    if (const float* bias = layer.bias(VectorRole::kRouterBias))
      for (int i = 0; i < n; i++) eligible[size_t(i)] += bias[i];
    if (c_.group_score != int(GroupScore::kNone)) keep_best_groups(c_, eligible.data());
    int* chosen = chosen_.data() + int64_t(row) * k;
    float *weights = chosen_weight_.data() + int64_t(row) * k, total = 1e-20f;
    largest(eligible.data(), n, k, chosen);
    for (int i = 0; i < k; i++) total += weights[i] = scores[chosen[i]];
    for (int i = 0; i < k; i++) weights[i] *= c_.renormalise ? c_.routed_scale / total : c_.routed_scale;
  }
}

// A counting sort of all (row, expert) pairs by expert; rows stay in order within an expert.
void Step::sort_by_expert() {
  std::vector<int> next(size_t(c_.experts) + 1);
  for (int expert : chosen_) next[size_t(expert) + 1]++;
  std::partial_sum(next.begin(), next.end(), next.begin());
  groups_.clear();
  for (int e = 0; e < c_.experts; e++)
    if (next[size_t(e) + 1] > next[size_t(e)]) groups_.push_back({e, next[size_t(e)], next[size_t(e) + 1] - next[size_t(e)]});
  for (size_t i = 0; i < chosen_.size(); i++) {
    const size_t to = size_t(next[size_t(chosen_[i])]++);
    routed_row_[to] = int(i) / c_.active_experts, routed_weight_[to] = chosen_weight_[i];
  }
}

void Step::mixture(const Layer& layer, int id) {
  const Matrix &router = layer[MatrixRole::kRouter], &gate = layer[MatrixRole::kExpertGate], &up = layer[MatrixRole::kExpertUp], &down = layer[MatrixRole::kExpertDown];
  const Matrix &shared_gate = layer[MatrixRole::kGate], &shared_up = layer[MatrixRole::kUp];
  const int needs = router.kernel->needs | (shared_gate ? shared_gate.kernel->needs | shared_up.kernel->needs : 0);
  const int routed_columns = gate.blocks * kBlockRows, expert_needs = gate.kernel->needs | up.kernel->needs;
  const Activations& x = prepare_normed(layer, VectorRole::kFeedForwardNorm, needs, id, {MatrixRole::kGate, MatrixRole::kUp});
  multiply(router, my_share(router.blocks, id), x, rows(), [&](int row, int block, F32 value) {
    value.store(s_.router.as<float>() + (int64_t(row) * router.blocks + block) * kBlockRows);
  });
  if (shared_gate)
    gate_and_up(shared_gate, shared_up, 0, my_share(shared_gate.blocks, id), x, {0, rows()}, s_.activated, activated_columns_,
                additions(layer, MatrixRole::kGate, 0, id), additions(layer, MatrixRole::kUp, 1, id));
  barrier();
  Range mine = my_share(rows(), id);
  route(layer, mine.first, mine.last);
  barrier();
  if (id == 0) sort_by_expert();
  barrier();
  prepare_shared(s_.routed_rows, int(routed_row_.size()), hidden_columns_, expert_needs, id,
                 [&](int i, float*) { return x.values + int64_t(routed_row_[size_t(i)]) * hidden_columns_; });
  // All experts' blocks in one row, so that the threads' shares are equal however the rows fell.
  mine = my_share(int64_t(groups_.size()) * gate.blocks, id);
  for (int i = mine.first; i < mine.last; i++) {
    const ExpertRows& g = groups_[size_t(i / gate.blocks)];
    const int block = i % gate.blocks;
    gate_and_up(gate, up, g.expert, {block, block + 1}, s_.routed_rows, {g.first, g.first + g.count}, s_.routed, routed_columns);
  }
  barrier();
  prepare_shared(s_.routed_activated, int(routed_row_.size()), routed_columns, down.kernel->needs, id,
                 [&](int i, float*) { return s_.routed.as<float>() + int64_t(i) * routed_columns; });
  // Threads share the columns of the residual stream: a row's experts are added in the order of their numbers.
  mine = my_share(down.blocks, id);
  for (const ExpertRows& g : groups_)
    for (int block = mine.first; block < mine.last; block++)
      multiply_block(down, g.expert * down.blocks + block, s_.routed_activated, g.first, g.first + g.count, [&](int i, F32 value) {
        float* to = hidden(routed_row_[size_t(i)]) + block * kBlockRows;
        fma(value, F32::set(routed_weight_[size_t(i)]), F32::load(to)).store(to);
      });
  if (shared_gate) add_down(layer, mine, id);
  barrier();
}

}  // namespace fathom
