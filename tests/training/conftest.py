"""A small synthetic corpus as shards, and the repository's recipes shrunk to a size that trains in seconds."""

import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from fathom.training.recipe import Recipe, read_recipe

RECIPES = Path(__file__).parents[2] / "recipes"
VOCABULARY = 64
TINY = [
    f"model.vocab_size={VOCABULARY}",
    "model.hidden_size=32",
    "model.intermediate_size=64",
    "model.num_hidden_layers=2",
    "model.max_position_embeddings=64",
    "data.sequence_length=32",
    "batch.sequences=4",
    "batch.micro_sequences=2",
    "schedule.warmup_steps=4",
    "schedule.peak=0.01",
    "loss_rows=48",
    "checkpoints.every=5",
    "evaluation.every=10",
    "evaluation.rows=8",
]
TINY_LATENT = [
    "model.num_attention_heads=2",
    "model.num_key_value_heads=2",
    "model.q_lora_rank=16",
    "model.kv_lora_rank=16",
    "model.qk_nope_head_dim=16",
    "model.qk_rope_head_dim=8",
    "model.v_head_dim=16",
    "model.moe_intermediate_size=32",
    "model.n_routed_experts=8",
    "model.num_experts_per_tok=2",
]


def documents(seed: int, tokens: int) -> list[list[int]]:
    """Texts of a small grammar: each word of three tokens is fixed by its first, words are drawn anew every time."""
    random = np.random.default_rng(seed)
    words = np.random.default_rng(0).integers(2, VOCABULARY, size=(16, 3))
    words[:, 0] = np.arange(2, 18)
    texts: list[list[int]] = []
    while sum(map(len, texts)) < tokens:
        chosen = random.integers(0, 16, size=int(random.integers(4, 20)))
        texts.append([0, *words[chosen].flatten().tolist(), 1])
    return texts


@pytest.fixture(scope="session")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """20,000 tokens to train on and 2,000 held out."""
    folder = tmp_path_factory.mktemp("corpus") / "shards"
    source: dict[str, object] = {"name": "words", "weight": None, "epochs": 1.0}
    for seed, (split, count) in enumerate({"train": 20_000, "validation": 2_000}.items()):
        (folder / split).mkdir(parents=True)
        texts, file = documents(seed, count), f"{split}/words-00000"
        flat = np.concatenate([np.array(text, dtype="<u2") for text in texts])
        flat.tofile(folder / f"{file}.tokens")
        np.save(folder / f"{file}.offsets.npy", np.cumsum([0, *map(len, texts)], dtype=np.int64))
        source[split] = [{"file": file, "tokens": len(flat), "documents": len(texts), "sha256": split}]
    index = {"format": "fathom-shards", "version": 1, "dtype": "uint16", "vocab_size": VOCABULARY}
    (folder / "index.json").write_text(json.dumps({**index, "tokenizer_sha256": "", "sources": [source]}))
    return folder


@pytest.fixture
def overrides(shards: Path, tmp_path: Path) -> Callable[..., list[str]]:
    """What --set shrinks a recipe of the repository with; its paths become absolute."""

    def make(name: str, *more: str) -> list[str]:
        paths = [f"data.shards='{shards}'", f"output='{tmp_path / name}'"]
        return [*TINY, *([] if name == "dense-nano" else TINY_LATENT), *paths, *_heads(name), *more]

    return make


def _heads(name: str) -> list[str]:
    return ["model.num_attention_heads=2", "model.num_key_value_heads=1"] if name == "dense-nano" else []


@pytest.fixture
def tiny(overrides: Callable[..., list[str]]) -> Callable[..., Recipe]:
    """A shrunk recipe of the repository by name, with more overrides."""

    def make(name: str, *more: str) -> Recipe:
        ramp = ["batch.ramp_from=2"] if name == "v3-nano" else []
        return read_recipe(RECIPES / f"{name}.toml", overrides(name, *ramp, *more))

    return make


@pytest.fixture
def recipe_file() -> Callable[[str], Path]:
    """Where a recipe of the repository lies."""
    return lambda name: RECIPES / f"{name}.toml"


@pytest.fixture
def writes_golden() -> bool:
    """Whether golden files are to be written anew (docs/training.md)."""
    return bool(os.environ.get("FATHOM_WRITE_GOLDEN"))


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Tiny products are fastest on one thread, and on a busy machine by far."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)
