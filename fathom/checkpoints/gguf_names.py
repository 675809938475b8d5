"""Between the tensor names of GGUF files (gguf-py, constants.py) and those of Hugging Face checkpoints."""

import re
from collections.abc import Mapping
from dataclasses import dataclass

_GLOBAL = {
    "token_embd": "model.embed_tokens",
    "output_norm": "model.norm",
    "output": "lm_head",
}
_IN_BLOCK = {
    "attn_norm": "input_layernorm",
    "ffn_norm": "post_attention_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "attn_q_a": "self_attn.q_a_proj",
    "attn_q_a_norm": "self_attn.q_a_layernorm",
    "attn_q_b": "self_attn.q_b_proj",
    "attn_kv_a_mqa": "self_attn.kv_a_proj_with_mqa",
    "attn_kv_a_norm": "self_attn.kv_a_layernorm",
    "attn_kv_b": "self_attn.kv_b_proj",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
    "ffn_gate_inp": "mlp.gate",
    "ffn_gate_shexp": "mlp.shared_experts.gate_proj",
    "ffn_up_shexp": "mlp.shared_experts.up_proj",
    "ffn_down_shexp": "mlp.shared_experts.down_proj",
    "nextn.eh_proj": "eh_proj",
    "nextn.embed_tokens": "embed_tokens",
    "nextn.enorm": "enorm",
    "nextn.hnorm": "hnorm",
    "nextn.shared_head_head": "shared_head.head",
    "nextn.shared_head_norm": "shared_head.norm",
}
_EXPERTS = {"ffn_gate_exps": "gate_proj", "ffn_up_exps": "up_proj", "ffn_down_exps": "down_proj"}
# The other way round, for writing.
GLOBAL_NAMES = {ours: theirs for theirs, ours in _GLOBAL.items()}
BLOCK_NAMES = {ours: theirs for theirs, ours in _IN_BLOCK.items()}
EXPERT_NAMES = {ours: theirs for theirs, ours in _EXPERTS.items()}
_ROUTER_BIAS = "exp_probs_b.bias"
_PERMUTED = {"attn_q", "attn_k"}  # llama.cpp interleaves the halves of each head's rows in the llama architecture
_MOST_EXPERTS = 1 << 16
_BLOCK = re.compile(r"blk\.(\d{1,5})\.(.+?)\.(weight|bias)")


@dataclass(frozen=True, slots=True)
class Place:
    """Where a Hugging Face tensor lies in a GGUF file.

    `expert`: its index in a stacked tensor. `part`: "q" or "k" where llama's rows are permuted. `value_name`: the
    second half of a kv_b that the file splits into attn_k_b (this `name`) and attn_v_b.
    """

    name: str
    expert: int | None = None
    part: str | None = None
    value_name: str | None = None


def places(shapes: Mapping[str, tuple[int, ...]], architecture: str) -> dict[str, Place]:
    """The Hugging Face names of all tensors of a GGUF file, in the file's order.

    Args:
        shapes: row-major shapes by GGUF name.
        architecture: `general.architecture`.

    A tensor that has no Hugging Face counterpart keeps its GGUF name, so that loading reports it as unused.

    """
    found: dict[str, Place] = {}
    for name, shape in shapes.items():
        stem, _, kind = name.rpartition(".")
        if stem in _GLOBAL:
            found[f"{_GLOBAL[stem]}.{kind}"] = Place(name)
            continue
        match = _BLOCK.fullmatch(name)
        if match is None:
            found[name] = Place(name)
        else:
            found |= _in_block(name, shape, match, architecture, shapes)
    return found


def _in_block(
    name: str, shape: tuple[int, ...], match: re.Match[str], architecture: str, shapes: Mapping[str, tuple[int, ...]]
) -> dict[str, Place]:
    stem, kind = match[2], match[3]
    prefix = f"model.layers.{match[1]}"
    if f"{stem}.{kind}" == _ROUTER_BIAS:
        return {f"{prefix}.mlp.gate.e_score_correction_bias": Place(name)}
    if stem in _EXPERTS and len(shape) == 3 and shape[0] <= _MOST_EXPERTS:
        inner = f"{_EXPERTS[stem]}.{kind}"
        return {f"{prefix}.mlp.experts.{index}.{inner}": Place(name, expert=index) for index in range(shape[0])}
    value_name = f"blk.{match[1]}.attn_v_b.{kind}"
    if stem == "attn_k_b" and value_name in shapes:
        return {f"{prefix}.self_attn.kv_b_proj.{kind}": Place(name, value_name=value_name)}
    if stem == "attn_v_b" and f"blk.{match[1]}.attn_k_b.{kind}" in shapes:
        return {}
    if stem not in _IN_BLOCK:
        return {name: Place(name)}
    part = stem[-1] if architecture == "llama" and stem in _PERMUTED else None
    return {f"{prefix}.{_IN_BLOCK[stem]}.{kind}": Place(name, part=part)}
