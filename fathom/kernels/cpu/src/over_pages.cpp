// Attention over the pages of all sequences: units of work that the threads take as they come.
#include <algorithm>
#include <cstring>

#include "step.h"

namespace fathom {

// Units of about equal size. When few sequences decode, their pages are shared out too: partials are kept and merged later.
void Step::lay_out_attention() {
  const int kv_heads = m_.cached_heads, group = c_.heads / kv_heads, heads = std::min(group, kQueryTile), tile = std::max(1, kQueryTile / group);
  const int head_tiles = (group + heads - 1) / heads;
  int64_t units = 0, partials = 0;
  for (const Sequence& s : sequences_) units += int64_t((s.count + tile - 1) / tile) * kv_heads * head_tiles;
  const bool few = units < 4 * m_.pool_.active();
  for (size_t i = 0; i < sequences_.size(); i++) {
    Sequence& s = sequences_[i];
    const int pages = used_pages(s);
    const bool split = few && s.count <= tile && pages > 1;
    s.partials = split ? partials : -1;
    if (split) partials += int64_t(s.count) * c_.heads * pages * m_.head.partial_floats();
    const int chunk = split ? std::max(1, int(pages * units / (8 * m_.pool_.active()))) : pages;
    for (int kv = 0; kv < kv_heads; kv++)
      for (int h = 0; h < group; h += heads)
        for (int t = 0; t < s.count; t += tile)
          for (int p = 0; p < pages; p += chunk)
            units_.push_back({int(i), kv, kv * group + h, std::min(heads, group - h), t, std::min(tile, s.count - t), p, std::min(pages, p + chunk)});
  }
  s_.partials.reserve(size_t(partials) * sizeof(float));
}

void Step::attend(const Layer& weights, int layer, int id) {
  if (id == 0) next_unit_[(layer + 1) % 2].store(0, std::memory_order_relaxed);
  for (int i; (i = next_unit_[layer % 2].fetch_add(1, std::memory_order_relaxed)) < int(units_.size());)
    attend_unit(units_[units_.size() - 1 - size_t(i)], layer, id);  // the longest units of a prompt come last in the list
  barrier_before(weights[MatrixRole::kOutput], id);
}

void Step::attend_unit(const AttentionUnit& unit, int layer, int id) {
  ThreadScratch& own = *m_.threads_[size_t(id)];
  const Sequence& s = sequences_[size_t(unit.sequence)];
  const int count = unit.tokens * unit.heads, floats = m_.head.partial_floats(), value_size = m_.head.value_size;
  const uint16_t* queries[kQueryTile];
  float *partials[kQueryTile], *states[kQueryTile];
  int visible[kQueryTile];
  for (int i = 0; i < count; i++) {
    queries[i] = query(s.first_row + unit.first_token + i / unit.heads, unit.first_head + i % unit.heads);
    states[i] = own.states.as<float>() + i * floats;
    partials[i] = own.states.as<float>() + (kQueryTile + i) * floats;
    states[i][1] = 0;
  }
  for (int page = unit.first_page; page < unit.last_page; page++) {
    int first = count;  // queries before this one end on an earlier page
    for (int i = count - 1; i >= 0; i--) {
      const int token = unit.first_token + i / unit.heads;
      visible[i] = std::min(s.start + token + 1 - page * kPageTokens, kPageTokens);
      if (visible[i] > 0) first = i;
      if (s.partials >= 0) partials[i] = partial(s, token, unit.first_head + i % unit.heads, page);
    }
    if (first == count) continue;
    attend_page(m_.page(s.pages[page], layer, unit.kv_head), m_.head, count - first, queries + first, visible + first, partials + first, own.attention);
    if (s.partials < 0)
      for (int i = first; i < count; i++) merge_partial(states[i], partials[i], value_size);
  }
  if (s.partials >= 0) return;
  for (int i = 0; i < count; i++) {
    const int row = s.first_row + unit.first_token + i / unit.heads, h = unit.first_head + i % unit.heads;
    finish_partial(states[i], value_size, context(row) + h * value_size);
  }
}

// Copies what attention returned for a head; merges the partials of sequences whose pages were shared out.
const float* Step::attended_head(int row, int head, float* to) {
  const Sequence& s = sequences_[size_t(rows_[size_t(row)].sequence)];
  const int pages = rows_[size_t(row)].position / kPageTokens + 1, value_size = m_.head.value_size;
  if (s.partials < 0) {
    std::memcpy(to, context(row) + head * value_size, size_t(value_size) * sizeof(float));
    return to;
  }
  alignas(64) float state[kPartialHeader + 4096];
  state[1] = 0;
  for (int page = 0; page < pages; page++) merge_partial(state, partial(s, row - s.first_row, head, page), value_size);
  finish_partial(state, value_size, to);
  return to;
}

}  // namespace fathom
