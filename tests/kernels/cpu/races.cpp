// Steps of two small models on several threads, to be run under the thread sanitizer (test_fuzz.py), which does not work
// inside Python. Prints "done".
#include <cstdio>
#include <cstdlib>
#include <vector>

#include "model.h"

using namespace fathom;

std::vector<float> random_values(int64_t n) {
  std::vector<float> values(static_cast<size_t>(n));
  for (float& value : values) value = float(rand()) / float(RAND_MAX) - 0.5f;
  return values;
}

void matrix(Model& model, int layer, MatrixRole role, int rows, int columns, int parts = 1) {
  for (int part = 0; part < parts; part++) {
    std::vector<float> values = random_values(int64_t(rows) * columns);
    model.set_matrix(layer, role, part, Type::F32, rows, columns, (const uint8_t*)values.data(), int64_t(values.size()) * 4);
  }
}

void vector(Model& model, int layer, VectorRole role, int n) { model.set_vector(layer, role, n, random_values(n).data()); }

void adapter(Model& model, int layer, MatrixRole role, int rows, int columns) {
  const std::vector<float> down = random_values(8 * columns), up = random_values(rows * 8);
  model.set_adapter(0, layer, role, Type::F32, 8, rows, columns, 0.5f, (const uint8_t*)down.data(), (const uint8_t*)up.data());
}

Config config(bool latent, int threads) {
  Config c{};
  c.layers = 2, c.vocabulary = 100, c.hidden = 64, c.heads = 4, c.kv_heads = 2, c.head_size = 32, c.feed_forward = 96;
  c.max_context = 400, c.pages = 20, c.threads = threads;
  c.norm_epsilon = c.latent_norm_epsilon = 1e-6f, c.attention_scale = 0.1f, c.routed_scale = 1, c.predictions = 1;
  if (!latent) return c;
  c.query_rank = 32, c.latent_rank = 32, c.nope_size = 32, c.rope_size = 16, c.value_size = 32;
  c.experts = 6, c.active_experts = 2, c.expert_width = 32, c.shared_width = 32, c.expert_groups = 2, c.kept_groups = 1;
  c.group_score = int(GroupScore::kMaximum);
  return c;
}

void fill(Model& m, bool latent) {
  using R = MatrixRole;
  matrix(m, 0, R::kEmbedding, 100, 64), vector(m, 0, VectorRole::kFinalNorm, 64);
  matrix(m, 2, R::kMerge, 64, 128);
  for (VectorRole role : {VectorRole::kEmbeddingNorm, VectorRole::kHiddenNorm, VectorRole::kHeadNorm}) vector(m, 2, role, 64);
  for (int l = 0; l < m.config.all_layers(); l++) {
    vector(m, l, VectorRole::kAttentionNorm, 64), vector(m, l, VectorRole::kFeedForwardNorm, 64);
    matrix(m, l, R::kOutput, 64, 128);
    if (latent) {
      matrix(m, l, R::kQueryDown, 32, 64), vector(m, l, VectorRole::kQueryNorm, 32), matrix(m, l, R::kQuery, 4 * 48, 32);
      matrix(m, l, R::kLatent, 48, 64), vector(m, l, VectorRole::kLatentNorm, 32);
      matrix(m, l, R::kKeyUp, 32, 32, 4), matrix(m, l, R::kValueUp, 32, 32, 4);
    } else {
      matrix(m, l, R::kQuery, 128, 64), matrix(m, l, R::kKey, 64, 64), matrix(m, l, R::kValue, 64, 64);
    }
    const bool routed = latent && l > 0;
    const int width = routed ? 32 : 96;
    if (routed) {
      matrix(m, l, R::kRouter, 6, 64), matrix(m, l, R::kExpertGate, 32, 64, 6);
      matrix(m, l, R::kExpertUp, 32, 64, 6), matrix(m, l, R::kExpertDown, 64, 32, 6);
    }
    matrix(m, l, R::kGate, width, 64), matrix(m, l, R::kUp, width, 64), matrix(m, l, R::kDown, 64, width);
  }
  const int half = m.config.rotary_size() / 2;
  const std::vector<float> table = random_values(int64_t(400) * half);
  m.set_rotary(400, half, table.data(), table.data());
  m.check_complete();
  for (int l = 0; l < 2; l++) {
    adapter(m, l, latent ? R::kLatent : R::kKey, latent ? 48 : 64, 64);
    adapter(m, l, R::kOutput, 64, 128), adapter(m, l, R::kDown, 64, latent && l > 0 ? 32 : 96);
  }
}

void steps(Model& model) {
  std::vector<float> logits(400 * 100);
  std::vector<int32_t> tokens(400), pages(20);
  for (int32_t& token : tokens) token = rand() % 100;
  for (int i = 0; i < 20; i++) pages[size_t(i)] = i;
  auto run = [&](std::vector<Sequence> sequences) {
    int64_t rows = 0;
    for (const Sequence& s : sequences) rows += s.count - s.logits_from;
    model.step(sequences, logits.data(), rows);
  };
  const int32_t *t = tokens.data(), *p = pages.data();
  run({{t, 150, 0, p, 3, 149, 0, -1, 0, -1}, {t, 70, 0, p + 5, 2, 0, -1, -1, 0, -1}});
  for (int i = 0; i < 20; i++) run({{t, 1, 150 + i, p, 3, 0, i % 2 - 1, -1, 0, -1}});
  for (int i = 0; i < 10; i++) {
    run({{t, 1, 170 + i, p, 3, 0, -1, -1, 0, -1}, {t, 3, 70 + 3 * i, p + 5, 2, 0, -1, -1, 0, -1}, {t, 9, 9 * i, p + 10, 2, 5, 0, -1, 0, -1}});
    std::vector<Sequence> guesses{{t, 1, 170 + i, p, 3, 0, -1, 0, 0, -1}, {t, 3, 70 + 3 * i, p + 5, 2, 2, -1, 1, 0, -1}};
    model.predict(0, guesses, logits.data(), 2);
  }
}

int main() {
  for (bool latent : {false, true})
    for (int threads : {2, 3}) {
      Model model(config(latent, threads));
      fill(model, latent);
      steps(model);
    }
  puts("done");
}
