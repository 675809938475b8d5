"""A tiny V3 learns, drafts its second token, and its checkpoint is the same model for transformers."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from fathom.checkpoints import load_model, open_checkpoint
from fathom.models.cache import NoCache
from fathom.training.evaluation import Evaluation, evaluate
from fathom.training.recipe import Recipe
from fathom.training.trainer import Summary, Trainer


def unigram_entropy(shards: Path) -> float:
    """Nats per token of the held-out text under its own token frequencies: what a model without context can reach."""
    tokens = np.fromfile(shards / "validation" / "words-00000.tokens", dtype="<u2")
    shares = np.bincount(tokens) / len(tokens)
    return float(-(shares[shares > 0] * np.log(shares[shares > 0])).sum())


def test_it_learns_and_transformers_agrees(tiny: Callable[..., Recipe], shards: Path) -> None:
    recipe = tiny("v3-nano", "tokens=12000", "evaluation.every=1000", "checkpoints.every=1000")
    summary: Summary = Trainer(recipe, Path(), rate=1e12, say=lambda _text: None).run()
    assert summary.evaluation is not None
    assert summary.evaluation.loss < 0.45 * unigram_entropy(shards)
    assert summary.evaluation.acceptance is not None
    assert summary.evaluation.acceptance > 0.4  # two tokens of three are fixed by the one before
    transformers = pytest.importorskip("transformers")
    theirs = transformers.AutoModelForCausalLM.from_pretrained(summary.checkpoint, dtype=torch.float32).eval()
    ours = load_model(open_checkpoint(summary.checkpoint, check=True), dtype=torch.float32)
    tokens = torch.randint(2, 60, (24,))
    with torch.no_grad():
        logits = ours.logits(ours(tokens, torch.arange(24), NoCache(1, 24)))
        torch.testing.assert_close(logits, theirs(tokens[None]).logits[0], rtol=1e-4, atol=1e-4)


def test_acceptance_counts_agreement_on_held_out_text(tiny: Callable[..., Recipe]) -> None:
    model = Trainer(tiny("v3-nano"), Path(), rate=1e12).state.model
    tokens = torch.randint(2, 60, (3, 10))
    result = evaluate(model, tokens)
    agreed, loss = 0, 0.0
    with torch.no_grad():
        for row in tokens:
            cache, positions = NoCache(1, 8), torch.arange(8)
            hidden = model(row[:8], positions, cache)
            further = model.predict_further(0, hidden, row[1:9], positions, cache)
            chosen, draft = model.logits(hidden).argmax(-1).tolist(), model.logits(further).argmax(-1).tolist()
            agreed += sum(draft[place] == chosen[place + 1] for place in range(7))
            loss += float(torch.nn.functional.cross_entropy(model.logits(hidden), row[1:9], reduction="sum"))
    assert result.acceptance == agreed / 21
    assert result.loss == pytest.approx(loss / 24, rel=1e-5)
    assert isinstance(result, Evaluation)


@pytest.mark.slow
def test_fp8_costs_less_than_a_quarter_of_a_percent_of_the_loss(tiny: Callable[..., Recipe]) -> None:
    """V3, section 3.3 and appendix B.1: the smoothed relative loss error against BF16 is below 0.25 %."""
    means: dict[str, float] = {}
    for precision in ("bfloat16", "fp8"):
        recipe = tiny("v3-nano", "tokens=4000", f"precision={precision}", "evaluation.every=1000")
        losses: list[float] = []
        trainer = Trainer(replace(recipe, output=f"{recipe.output}-{precision}"), Path(), rate=1e12)
        trainer.run(lambda metrics, losses=losses: losses.append(metrics.loss))  # type: ignore[misc]
        means[precision] = sum(losses) / len(losses)
    assert means["fp8"] != means["bfloat16"]
    assert abs(means["fp8"] / means["bfloat16"] - 1) < 0.0025
