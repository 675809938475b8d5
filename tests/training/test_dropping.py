"""V2's token dropping: the budget of every device, the lowest affinities, exempt sequences, none in evaluation."""

from collections.abc import Callable
from pathlib import Path

import torch

from fathom.models.experts import Gate
from fathom.training.dropping import kept_choices
from fathom.training.recipe import Recipe
from fathom.training.trainer import Trainer


def test_every_device_keeps_its_highest_affinities() -> None:
    generator = torch.Generator().manual_seed(0)
    affinities = torch.rand(50, 3, generator=generator)
    groups = torch.randint(0, 4, (50, 3), generator=generator) % torch.randint(1, 5, (50, 3), generator=generator)
    nobody = torch.zeros(50, dtype=torch.bool)
    kept = kept_choices(affinities, groups, 4, 1.0, nobody)
    budget = 150 // 4
    for group in range(4):
        inside = groups == group
        assert int((kept & inside).sum()) == min(budget, int(inside.sum()))
        if (inside & ~kept).any():
            assert affinities[inside & ~kept].max() <= affinities[inside & kept].min()
    assert not kept.all()
    assert kept_choices(affinities, groups, 4, 4.0, nobody).all()


def test_exempt_tokens_stay_and_use_the_budget() -> None:
    affinities, groups = torch.tensor([[0.1], [0.9], [0.8], [0.7]]), torch.zeros(4, 1, dtype=torch.int64)
    exempt = torch.tensor([True, False, False, False])
    assert kept_choices(affinities, groups, 2, 1.0, exempt).flatten().tolist() == [True, True, False, False]


def test_gates_drop_in_training_alone(tiny: Callable[..., Recipe]) -> None:
    trainer = Trainer(tiny("v2-nano", "balance_v2.capacity=0.5", "balance_v2.exempt=0.5"), Path(), rate=1e12)
    length = trainer.recipe.data.sequence_length
    gate = next(module for module in trainer.state.model.modules() if isinstance(module, Gate))
    x = torch.randn(2 * length, trainer.recipe.model.hidden_size)
    dropped = gate(x).weights_NK == 0
    assert not dropped[:length].any()  # every second sequence is exempt
    assert dropped[length:].any()
    with torch.no_grad():
        assert not (gate(x).weights_NK == 0).any()
    metrics = trainer.step()
    assert metrics.loss > 0
    untouched = Trainer(tiny("v2-nano"), Path(), rate=1e12)
    assert untouched.step().loss != metrics.loss
