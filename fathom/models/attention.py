"""Attention of both families over one cache: grouped-query (Llama, Qwen2) and multi-head latent (DeepSeek V2, V3).

N flat rows, T new tokens of a sequence, S tokens looked at, H query heads, G key/value heads, K head size, R latent
rank, P rotary part, C = R+P.
"""

from typing import Literal

import torch
from torch import Tensor, nn

from fathom.kernels.attention import attend, attend_shared, attend_shared_paged
from fathom.models import frequencies, rotary
from fathom.models.cache import Group, KeyValueCache
from fathom.models.config import ModelConfig
from fathom.models.layers import Linear, RMSNorm

# DeepSeek's code builds the norms of the two latents with its class default, whatever rms_norm_eps says.
_LATENT_NORM_EPS = 1e-6

Form = Literal["auto", "naive", "absorbed"]


class GroupedQueryAttention(nn.Module):
    """Rotary attention in which several query heads share a key/value head; a cache entry is [keys ; values]."""

    def __init__(self, config: ModelConfig, layer: int) -> None:
        super().__init__()
        self.layer = layer
        self.heads, self.groups, self.size = config.num_attention_heads, config.num_key_value_heads, config.head_dim
        self.scale = frequencies.softmax_scale(config)
        hidden, bias = config.hidden_size, config.attention_bias
        self.q_proj = Linear(hidden, self.heads * self.size, bias=bias)
        self.k_proj = Linear(hidden, self.groups * self.size, bias=bias)
        self.v_proj = Linear(hidden, self.groups * self.size, bias=bias)
        # Qwen2 has biases on q, k and v alone; a Llama with attention_bias has one on o as well.
        self.o_proj = Linear(self.heads * self.size, hidden, bias=bias and config.architecture == "llama")

    def forward(self, x_ND: Tensor, cos: Tensor, sin: Tensor, cache: KeyValueCache) -> Tensor:
        """Write the new entries, attend, return [N, D]."""
        rows = x_ND.shape[0]
        query_NHK = rotary.rotate_halves(self.q_proj(x_ND).view(rows, self.heads, self.size), cos, sin)
        key_NGK = rotary.rotate_halves(self.k_proj(x_ND).view(rows, self.groups, self.size), cos, sin)
        cache.update(self.layer, torch.cat((key_NGK.flatten(1), self.v_proj(x_ND)), dim=1))
        outputs = [self._attend(query_NHK[group.rows], group, cache) for group in cache.groups]
        result: Tensor = self.o_proj(_joined(outputs))
        return result

    def _attend(self, query_MHK: Tensor, group: Group, cache: KeyValueCache) -> Tensor:
        entries = torch.unflatten(cache.read(self.layer, group), -1, (2 * self.groups, self.size))
        query = query_MHK.view(group.batch, group.new, self.heads, self.size)
        key, value = entries[:, :, : self.groups], entries[:, :, self.groups :]
        return attend(query, key, value, group.mask_BTS, self.scale).reshape(group.batch * group.new, -1)


class LatentAttention(nn.Module):
    """Multi-head latent attention (V2, section 2.1 and appendix C); a cache entry is [latent R ; rotated key P].

    Two forms with equal results. *Naive*: expand every cached latent to keys and values of all heads, then attend.
    *Absorbed*: fold the key expansion into the query and the value expansion into the output, and attend over the
    entries as they lie. `form` is "auto" (see `prefers_absorbed`) unless someone fixes it.
    """

    def __init__(self, config: ModelConfig, layer: int) -> None:
        super().__init__()
        self.layer = layer
        self.form: Form = "auto"
        self.heads = config.num_attention_heads
        self.rank, self.rope = config.kv_lora_rank, config.qk_rope_head_dim
        self.nope, self.width = config.qk_nope_head_dim, config.v_head_dim
        self.scale = frequencies.softmax_scale(config)
        hidden = config.hidden_size
        if config.q_lora_rank is None:
            self.q_proj = Linear(hidden, self.heads * config.qk_head_dim, bias=False)
        else:
            self.q_a_proj = Linear(hidden, config.q_lora_rank, bias=False)
            self.q_a_layernorm = RMSNorm(config.q_lora_rank, _LATENT_NORM_EPS)
            self.q_b_proj = Linear(config.q_lora_rank, self.heads * config.qk_head_dim, bias=False)
        self.compresses_query = config.q_lora_rank is not None
        self.kv_a_proj_with_mqa = Linear(hidden, self.rank + self.rope, bias=False)
        self.kv_a_layernorm = RMSNorm(self.rank, _LATENT_NORM_EPS)
        self.kv_b_proj = Linear(self.rank, self.heads * (self.nope + self.width), bias=False)
        self.o_proj = Linear(self.heads * self.width, hidden, bias=False)

    def forward(self, x_ND: Tensor, cos: Tensor, sin: Tensor, cache: KeyValueCache) -> Tensor:
        """Write the new entries, attend, return [N, D]."""
        nope_NHK, rope_NHP = torch.split(self._query(x_ND), [self.nope, self.rope], dim=-1)
        rope_NHP = rotary.rotate_pairs(rope_NHP, cos, sin)
        latent_NR, shared_NP = torch.split(self.kv_a_proj_with_mqa(x_ND), [self.rank, self.rope], dim=-1)
        shared_NP = rotary.rotate_pairs(shared_NP[:, None], cos, sin)[:, 0]
        cache.update(self.layer, torch.cat((self.kv_a_layernorm(latent_NR), shared_NP), dim=1))
        outputs = []
        for group in cache.groups:
            attend_group = self._absorbed if self._absorbs(group) else self._naive
            shape = (group.batch, group.new, self.heads, -1)
            nope, rope = nope_NHK[group.rows].view(shape), rope_NHP[group.rows].view(shape)
            out = attend_group(nope, rope, cache, group)
            outputs.append(out.reshape(group.batch * group.new, -1))
        result: Tensor = self.o_proj(_joined(outputs))
        return result

    def prefers_absorbed(self, new: int, context: int) -> bool:
        """Return whether the absorbed form needs fewer multiplications for `new` tokens over `context`.

        Per head and sequence, with T = new, S = context, N = qk_nope_head_dim, W = v_head_dim:
        naive expands S latents, R*(N+W) each, and scores T*S pairs at N+P+W; absorbed folds T queries and outputs,
        R*(N+W) each, and scores T*S pairs at 2R+P. At V3's sizes the forms break even at T = S / (1 + S/171): decoding
        is absorbed from the second token on, a fresh prompt (T = S) always naive, a chunk of up to about 170 tokens
        over a long context absorbed.
        """
        folding = self.rank * (self.nope + self.width)
        naive = context * folding + new * context * (self.nope + self.rope + self.width)
        absorbed = new * folding + new * context * (2 * self.rank + self.rope)
        return absorbed < naive

    def _absorbs(self, group: Group) -> bool:
        return self.form == "absorbed" or (self.form == "auto" and self.prefers_absorbed(group.new, group.context))

    def _query(self, x_ND: Tensor) -> Tensor:
        flat: Tensor = (
            self.q_b_proj(self.q_a_layernorm(self.q_a_proj(x_ND))) if self.compresses_query else self.q_proj(x_ND)
        )
        return flat.view(x_ND.shape[0], self.heads, self.nope + self.rope)

    def _naive(self, nope_BTHN: Tensor, rope_BTHP: Tensor, cache: KeyValueCache, group: Group) -> Tensor:
        latent_BSR, shared_BSP = torch.split(cache.read(self.layer, group), [self.rank, self.rope], dim=-1)
        expanded = torch.unflatten(self.kv_b_proj(latent_BSR), -1, (self.heads, self.nope + self.width))
        key_nope, value = torch.split(expanded, [self.nope, self.width], dim=-1)
        key = torch.cat((key_nope, shared_BSP[:, :, None].expand(-1, -1, self.heads, -1)), dim=-1)
        query = torch.cat((nope_BTHN, rope_BTHP), dim=-1)
        return attend(query, key, value, group.mask_BTS, self.scale)

    def _absorbed(self, nope_BTHN: Tensor, rope_BTHP: Tensor, cache: KeyValueCache, group: Group) -> Tensor:
        by_head = self.kv_b_proj.weight.view(self.heads, -1, self.rank)
        to_key, to_value = torch.split(by_head, [self.nope, self.width], dim=1)
        query = torch.cat((torch.einsum("bthn,hnr->bthr", nope_BTHN, to_key), rope_BTHP), dim=-1)
        if paged := cache.paged(self.layer, group):
            context = attend_shared_paged(query[:, 0], paged, self.rank, self.scale)[:, None]
        else:
            context = attend_shared(query, cache.read(self.layer, group), self.rank, group.mask_BTS, self.scale)
        return torch.einsum("bthr,hwr->bthw", context, to_value)


def _joined(outputs: list[Tensor]) -> Tensor:
    return outputs[0] if len(outputs) == 1 else torch.cat(outputs)
