"""`fathom show`: what a model is, from its config or header alone."""

import argparse
from typing import Any

from fathom.cli.describe import Described, describe
from fathom.cli.terminal import answer, answer_json, human_bytes, human_count
from fathom.costs.model import model_costs, weights_bytes

DESCRIPTION = (
    "Show a model's architecture, size, cache and licence. Only its config or header is read, never its weights."
)
EXAMPLE = "fathom show v3"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Which one."""
    parser.add_argument(
        "ref", metavar="REF_OR_PRESET", help="smollm2:135m, ORG/NAME, a folder, a file, or v2-lite, v2, v3, r1 ..."
    )
    parser.add_argument("--json", action="store_true", help="one JSON object")


def run(arguments: argparse.Namespace) -> int:
    """Print what is known."""
    facts = facts_of(describe(arguments.ref))
    if arguments.json:
        answer_json(facts)
        return 0
    for line in _lines(facts):
        answer(line)
    return 0


def facts_of(model: Described) -> dict[str, Any]:
    """Everything `show` says, under the names of the published configs."""
    config, checkpoint = model.config, model.checkpoint
    costs = model_costs(config)
    types: dict[str, int] = {}
    stored = None
    if checkpoint is not None:
        infos = [checkpoint.info(name) for name in checkpoint.names()]
        stored = sum(info.bytes for info in infos)
        for info in infos:
            types[info.type] = types.get(info.type, 0) + 1
    return {
        "ref": model.ref,
        "source": model.source,
        "name": checkpoint.name if checkpoint is not None else model.ref,
        "architecture": config.architecture,
        "parameters_total": costs.parameters_total,
        "parameters_active": costs.parameters_active,
        "parameters_prediction": costs.parameters_prediction,
        "bytes": stored if stored is not None else weights_bytes(config, "bfloat16"),
        "bytes_of": "the stored tensors" if stored is not None else "bfloat16 weights, computed",
        "tensor_types": types,
        "cache_bytes_per_token": costs.cache_bytes_per_token,
        "context": config.max_position_embeddings,
        "vocab_size": config.vocab_size,
        "hidden_size": config.hidden_size,
        "num_hidden_layers": config.num_hidden_layers,
        "num_attention_heads": config.num_attention_heads,
        "num_key_value_heads": config.num_key_value_heads,
        "kv_lora_rank": config.kv_lora_rank if config.is_latent else None,
        "n_routed_experts": config.n_routed_experts,
        "num_experts_per_tok": config.num_experts_per_tok,
        "licence": checkpoint.licence if checkpoint is not None else None,
    }


def _lines(facts: dict[str, Any]) -> list[str]:
    total, active = facts["parameters_total"], facts["parameters_active"]
    rows = [
        ("model", facts["name"]),
        ("from", facts["source"]),
        ("architecture", facts["architecture"]),
        ("parameters", f"{human_count(total)} total, {human_count(active)} active per token ({total:,} / {active:,})"),
        ("size", f"{human_bytes(facts['bytes'])} ({facts['bytes_of']})"),
        ("tensor types", ", ".join(f"{name} x{count}" for name, count in facts["tensor_types"].items())),
        ("context", f"{facts['context']:,} tokens"),
        ("cache", f"{facts['cache_bytes_per_token']:,} bytes per token in bfloat16 ({_cache_kind(facts)})"),
        (
            "layers",
            f"{facts['num_hidden_layers']} of width {facts['hidden_size']}, {facts['num_attention_heads']} heads",
        ),
        ("experts", _experts(facts)),
        ("vocabulary", f"{facts['vocab_size']:,} tokens"),
        ("licence", facts["licence"] or "not stated" if facts["tensor_types"] else ""),
    ]
    return [f"{name:<13} {value}" for name, value in rows if value]


def _cache_kind(facts: dict[str, Any]) -> str:
    if facts["kv_lora_rank"]:
        return f"latent of rank {facts['kv_lora_rank']}"
    return f"{facts['num_key_value_heads']} key/value heads"


def _experts(facts: dict[str, Any]) -> str:
    if not facts["n_routed_experts"]:
        return ""
    return f"{facts['n_routed_experts']} routed, {facts['num_experts_per_tok']} of them per token"
