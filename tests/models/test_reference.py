"""Against a second, independent writing of DeepSeek V2 and V3, token by token from the reports' formulas in float64.

It is also the judge where transformers departs from DeepSeek's own code: each such test shows which of the two we
follow, and that the other one would differ.
"""

import cmath
import math
from dataclasses import dataclass, replace

import pytest
import torch

from fathom.models import PRESETS, ModelConfig, RopeScaling
from fathom.models.cache import ContiguousCache
from fathom.models.transformer import Transformer

V2, V3 = PRESETS["tiny-v2"], PRESETS["tiny-v3"]
YARN = RopeScaling("yarn", 40.0, original_max_position_embeddings=64, mscale=0.707, mscale_all_dim=0.707)


@dataclass
class Reference:
    """One sequence through `model.layers[:num_hidden_layers]`, head by head, expert by expert."""

    config: ModelConfig
    state: dict[str, torch.Tensor]
    rejected: float = -math.inf  # what the scores of experts in rejected groups become

    def weight(self, name: str) -> torch.Tensor:
        return self.state[name].double()

    def norm(self, x, name, eps):
        return x / torch.sqrt((x * x).mean() + eps) * self.weight(name + ".weight")

    def angles(self):
        config, size = self.config, self.config.qk_rope_head_dim
        plain = [config.rope_theta ** (-2 * i / size) for i in range(size // 2)]
        yarn = config.rope_scaling
        if yarn is None:
            return plain, 1.0, 1.0
        turns = lambda beta: (
            size * math.log(yarn.original_max_position_embeddings / (beta * 2 * math.pi)) / 2 / math.log(10000.0)
        )
        low, high = max(math.floor(turns(yarn.beta_fast)), 0), min(math.ceil(turns(yarn.beta_slow)), size - 1)
        slow = [min(max((i - low) / (high - low or 0.001), 0), 1) for i in range(size // 2)]
        blended = [f / yarn.factor * s + f * (1 - s) for f, s in zip(plain, slow, strict=True)]
        # DeepSeek's class defaults: mscale 1, mscale_all_dim 0; only the latter makes the softmax scale grow.
        grown = lambda m: 0.1 * m * math.log(yarn.factor) + 1
        mscale = 1.0 if yarn.mscale is None else yarn.mscale
        all_dim = yarn.mscale_all_dim or 0.0
        return blended, grown(mscale) / grown(all_dim), grown(all_dim) ** 2

    def rotate(self, x, position):
        """Adjacent pairs as complex numbers."""
        frequencies, multiplier, _ = self.angles()
        out = x.clone()
        for i, frequency in enumerate(frequencies):
            turned = complex(x[2 * i], x[2 * i + 1]) * cmath.exp(1j * position * frequency) * multiplier
            out[2 * i], out[2 * i + 1] = turned.real, turned.imag
        return out

    def entry(self, x, at, position):
        down = self.weight(at + "kv_a_proj_with_mqa.weight") @ x
        rank = self.config.kv_lora_rank
        return self.norm(down[:rank], at + "kv_a_layernorm", 1e-6), self.rotate(down[rank:], position)

    def query(self, x, at):
        if self.config.q_lora_rank is None:
            return self.weight(at + "q_proj.weight") @ x
        compressed = self.norm(self.weight(at + "q_a_proj.weight") @ x, at + "q_a_layernorm", 1e-6)
        return self.weight(at + "q_b_proj.weight") @ compressed

    def attention(self, x, at, entries, position):
        config = self.config
        nope, width = config.qk_nope_head_dim, config.v_head_dim
        scale = self.angles()[2] / math.sqrt(config.qk_head_dim)
        queries = self.query(x, at).view(config.num_attention_heads, -1)
        expand = self.weight(at + "kv_b_proj.weight").view(config.num_attention_heads, nope + width, -1)
        outputs = []
        for query, matrix in zip(queries, expand, strict=True):
            turned = self.rotate(query[nope:], position)
            scores = [query[:nope] @ (matrix[:nope] @ c) + turned @ k for c, k in entries]
            weights = torch.softmax(torch.stack(scores) * scale, dim=0)
            outputs.append(sum(w * (matrix[nope:] @ c) for w, (c, _) in zip(weights, entries, strict=True)))
        return self.weight(at + "o_proj.weight") @ torch.cat(outputs)

    def gated(self, x, gate, up, down):
        return down @ (torch.nn.functional.silu(gate @ x) * (up @ x))

    def chosen(self, x, at):
        """Pairs of expert and weight."""
        config = self.config
        affinity = self.weight(at + "gate.weight") @ x
        third = config.architecture == "deepseek_v3"
        scores = affinity.sigmoid() if third else affinity.softmax(0)
        biased = scores + self.weight(at + "gate.e_score_correction_bias") if third else scores
        if config.topk_method != "greedy":
            groups = biased.view(config.n_group, -1)
            value = [sum(sorted(g.tolist())[-2:]) if third else max(g.tolist()) for g in groups]
            best = sorted(range(config.n_group), key=lambda g: -value[g])[: config.topk_group]
            biased = torch.stack([g if i in best else g * 0 + self.rejected for i, g in enumerate(groups)]).flatten()
        experts = sorted(range(config.n_routed_experts), key=lambda e: -biased[e])[: config.num_experts_per_tok]
        total = sum(scores[e] for e in experts) if config.norm_topk_prob else 1.0
        factor = config.routed_scaling_factor if third or not config.norm_topk_prob else 1.0
        return [(e, scores[e] / total * factor) for e in experts]

    def feed_forward(self, x, at, layer):
        names = ("gate_proj", "up_proj", "down_proj")
        if not self.config.has_experts(layer):
            return self.gated(x, *(self.weight(f"{at}{name}.weight") for name in names))
        out = self.gated(x, *(self.weight(f"{at}shared_experts.{name}.weight") for name in names))
        stacked = [self.weight(f"{at}experts.{name}") for name in names]
        return out + sum(w * self.gated(x, *(matrix[e] for matrix in stacked)) for e, w in self.chosen(x, at))

    def logits(self, tokens):
        config = self.config
        self.entries = [[] for _ in range(config.num_hidden_layers)]
        rows = []
        for position, token in enumerate(tokens):
            x = self.weight("model.embed_tokens.weight")[token]
            for layer in range(config.num_hidden_layers):
                at = f"model.layers.{layer}."
                normed = self.norm(x, at + "input_layernorm", config.rms_norm_eps)
                self.entries[layer].append(self.entry(normed, at + "self_attn.", position))
                x = x + self.attention(normed, at + "self_attn.", self.entries[layer], position)
                normed = self.norm(x, at + "post_attention_layernorm", config.rms_norm_eps)
                x = x + self.feed_forward(normed, at + "mlp.", layer)
            rows.append(self.weight("lm_head.weight") @ self.norm(x, "model.norm", config.rms_norm_eps))
        return torch.stack(rows).float()


def random_model(config, bias=0.1):
    torch.manual_seed(0)
    model = Transformer(config).eval()
    with torch.no_grad():
        for name, tensor in model.named_parameters():
            tensor.copy_(torch.randn_like(tensor) * 0.1 + (1.0 if "norm" in name else 0.0))
        for name, tensor in model.named_buffers():
            tensor.copy_(torch.randn_like(tensor) * 0.1 + (bias if "bias" in name else 0.0))
    return model


TOKENS = [5, 300, 7, 7, 41, 511, 0, 19, 230]
CONFIGS = {
    "v2": V2,
    "v2-greedy": replace(V2, topk_method="greedy", n_group=1, topk_group=1),
    "v2-no-query-rank": replace(V2, q_lora_rank=None),
    "v2-yarn-0.707": replace(V2, rope_scaling=YARN),
    "v2-normalised": replace(V2, norm_topk_prob=True),
    "v3": V3,
    "v3-yarn-1.0": replace(V3, rope_scaling=replace(YARN, mscale=1.0, mscale_all_dim=1.0)),
    "v3-mscale-alone": replace(V3, rope_scaling=replace(YARN, mscale_all_dim=None)),
    "v3-all-dim-alone": replace(V3, rope_scaling=replace(YARN, mscale=None)),
    "v3-not-normalised": replace(V3, norm_topk_prob=False),
    "v3-eps": replace(V3, rms_norm_eps=1e-2),
}


@torch.no_grad()
@pytest.mark.parametrize("name", CONFIGS)
def test_equals_the_formulas(name, whole_logits):
    model = random_model(CONFIGS[name])
    expected = Reference(model.config, model.state_dict()).logits(TOKENS)
    torch.testing.assert_close(whole_logits(model, torch.tensor([TOKENS]))[0], expected, atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_cache_holds_the_normalised_latent_and_the_rotated_key():
    """Pairs stay adjacent as in DeepSeek's code; transformers moves them into halves, with equal scores."""
    model = random_model(V3)
    reference = Reference(V3, model.state_dict())
    reference.logits(TOKENS)
    cache = ContiguousCache(V3, 1, len(TOKENS))
    model(torch.tensor(TOKENS), cache.extend([len(TOKENS)]), cache)
    for layer, entries in enumerate(reference.entries):
        expected = torch.stack([torch.cat(pair) for pair in entries]).float()
        torch.testing.assert_close(cache.entries_LBSC[layer, 0], expected, atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_rejected_groups_lose_even_when_every_biased_score_is_negative(whole_logits, make_pair):
    """V3's report and code: minus infinity. Zero, as transformers had it up to 4.x, would beat the kept groups."""
    model = random_model(V3, bias=-3.0)
    tokens = torch.tensor([TOKENS])
    ours = whole_logits(model, tokens)[0]
    infinity, zero = (Reference(V3, model.state_dict(), value).logits(TOKENS) for value in (-math.inf, 0.0))
    torch.testing.assert_close(ours, infinity, atol=1e-5, rtol=1e-5)
    assert (ours - zero).abs().max() > 1e-2
    theirs, same = make_pair(V3)
    for gate in (module.mlp.gate for module in theirs.model.layers[1:]):
        gate.e_score_correction_bias.fill_(-3.0)
    for gate in (layer.mlp.gate for layer in same.model.layers[1:]):
        gate.e_score_correction_bias.fill_(-3.0)
    torch.testing.assert_close(whole_logits(same, tokens), theirs(tokens).logits, atol=1e-5, rtol=1e-5)


@torch.no_grad()
@pytest.mark.parametrize(
    "config",
    [
        pytest.param(CONFIGS["v2-normalised"], id="V2 renormalises instead of scaling; transformers ignores the key"),
        pytest.param(CONFIGS["v3-mscale-alone"], id="mscale without mscale_all_dim counts; transformers ignores it"),
        pytest.param(CONFIGS["v3-all-dim-alone"], id="mscale missing is 1; transformers ignores mscale_all_dim"),
    ],
)
def test_deepseeks_own_code_is_followed_where_transformers_departs(config, make_pair, whole_logits):
    theirs, ours = make_pair(config)
    tokens = torch.tensor([TOKENS])
    logits = whole_logits(ours, tokens)[0]
    expected = Reference(config, ours.state_dict()).logits(TOKENS)
    torch.testing.assert_close(logits, expected, atol=1e-5, rtol=1e-5)
    assert (logits - theirs(tokens).logits[0]).abs().max() > 1e-4
