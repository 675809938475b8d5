"""Extending the context as V2 and V3 did: YaRN on a trained model in two phases, each from the weights before."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from fathom.checkpoints import load_model, open_checkpoint
from fathom.models.cache import NoCache
from fathom.training.checkpoint import checkpoints
from fathom.training.recipe import Recipe
from fathom.training.trainer import Trainer


def scaling(factor: int) -> str:
    yarn = {"type": "'yarn'", "factor": factor, "original_max_position_embeddings": 32, "mscale": 1.0}
    pairs = [f"{key} = {value}" for key, value in {**yarn, "mscale_all_dim": 1.0}.items()]
    return f"model.rope_scaling={{{', '.join(pairs)}}}"


def test_two_phases_of_yarn_from_a_trained_model(tiny: Callable[..., Recipe], tmp_path: Path) -> None:
    def phase(name: str, *more: str) -> tuple[Trainer, Path]:
        trainer = Trainer(
            tiny("v3-nano", f"output='{tmp_path / name}'", *more), Path(), rate=1e12, say=lambda _text: None
        )
        trainer.run()
        return trainer, checkpoints(tmp_path / name / "checkpoints")[-1]

    first, checkpoint = phase("short", "tokens=1280", "model.max_position_embeddings=32", "data.sequence_length=32")
    for factor in (4, 16):
        length = 32 * factor
        lengths = (f"data.sequence_length={length}", f"model.max_position_embeddings={length}", f"tokens={8 * length}")
        trainer, extended = phase(f"x{factor}", *lengths, scaling(factor), f"init='{checkpoint}'")
        config = trainer.state.model.config
        assert config.rope_scaling is not None
        assert (config.rope_scaling.type, config.rope_scaling.factor) == ("yarn", factor)
        assert trainer.state.step > 0
        checkpoint = extended
    transformers = pytest.importorskip("transformers")
    theirs = transformers.AutoModelForCausalLM.from_pretrained(checkpoint, dtype=torch.float32).eval()
    ours = load_model(open_checkpoint(checkpoint), dtype=torch.float32)
    tokens = torch.arange(400) * 7 % 50 + 2
    with torch.no_grad():
        logits = ours.logits(ours(tokens, torch.arange(400), NoCache(1, 400)))
        torch.testing.assert_close(logits, theirs(tokens[None]).logits[0], rtol=1e-4, atol=1e-4)
        before = first.state.model
        plain = before.logits(before(tokens, torch.arange(400), NoCache(1, 400)))
    assert (plain[:8] - logits[:8]).abs().max() > 1e-4
