"""Schedules at the published points, AdamW against torch's, clipping, the average."""

import pytest
import torch

from fathom.training import schedules
from fathom.training.optimizer import AdamW, MasterWeights, clip_scale, update_average
from fathom.training.recipe import (
    BalanceV3,
    BatchSettings,
    CosineDecay,
    OptimizerSettings,
    PredictionSettings,
    ScheduleSettings,
    StepDecay,
)

V3 = ScheduleSettings(2.2e-4, 2000, cosine=CosineDecay())


@pytest.mark.parametrize(
    ("trillions", "rate"),
    [(1, 2.2e-4), (9.99, 2.2e-4), (12.15, 1.21e-4), (14.3, 2.2e-5), (14.6, 2.2e-5), (14.7, 7.3e-6), (14.79, 7.3e-6)],
)
def test_v3_schedule_at_published_points(trillions: float, rate: float) -> None:
    assert schedules.learning_rate(V3, 10**6, trillions / 14.8) == pytest.approx(rate, rel=0.01)


def test_warm_up_is_linear_from_zero() -> None:
    rates = [schedules.learning_rate(V3, step, 0.0) for step in range(2001)]
    assert rates[0] == pytest.approx(2.2e-4 / 2000)
    assert rates[999] == pytest.approx(1.1e-4)
    assert rates[1999] == rates[2000] == pytest.approx(2.2e-4)


def test_v2_schedule_drops_twice() -> None:
    settings = ScheduleSettings(2.4e-4, 0, steps=StepDecay())
    rates = [schedules.learning_rate(settings, 1, progress) for progress in (0.59, 0.6, 0.89, 0.9, 1.0)]
    assert rates == pytest.approx([2.4e-4, 7.584e-5, 7.584e-5, 2.3965e-5, 2.3965e-5], rel=1e-3)


def test_batch_ramp_grows_in_whole_micro_batches() -> None:
    settings = BatchSettings(15360, 64, ramp_from=3072)
    sizes = [schedules.batch_sequences(settings, progress / 1000) for progress in range(60)]
    assert sizes[0] == 3072
    assert sizes[-1] == 15360
    assert sizes == sorted(sizes)
    assert all(size % 64 == 0 for size in sizes)
    assert schedules.batch_sequences(settings, 0.0317 / 2) == pytest.approx((3072 + 15360) / 2, abs=64)


def test_bias_and_prediction_follow_the_report() -> None:
    assert [schedules.bias_speed(BalanceV3(), t / 14.8) for t in (14.2, 14.4)] == [0.001, 0.0]
    assert [schedules.prediction_weight(PredictionSettings(), t / 14.8) for t in (9.9, 10.1)] == [0.3, 0.1]


@pytest.mark.parametrize(("moments", "tolerance"), [("float32", 1e-6), ("bfloat16", 2e-2)])
def test_adamw_equals_torch(moments: str, tolerance: float) -> None:
    torch.manual_seed(0)
    start = {"matrix": torch.randn(5, 7), "norm": torch.randn(7)}
    ours = {name: tensor.clone() for name, tensor in start.items()}
    theirs = {name: tensor.clone().requires_grad_() for name, tensor in start.items()}
    optimizer = AdamW(ours, OptimizerSettings(moments=moments))  # type: ignore[arg-type]
    groups = [{"params": [theirs["matrix"]], "weight_decay": 0.1}, {"params": [theirs["norm"]], "weight_decay": 0.0}]
    reference = torch.optim.AdamW(groups, lr=0.01, betas=(0.9, 0.95), eps=1e-8)
    for _ in range(10):
        gradients = {name: torch.randn_like(tensor) for name, tensor in start.items()}
        for name, gradient in gradients.items():
            theirs[name].grad = gradient * 0.5
        reference.step()
        optimizer.step(gradients, 0.01, torch.tensor(0.5))
    for name, tensor in theirs.items():
        torch.testing.assert_close(ours[name], tensor.detach(), rtol=tolerance, atol=tolerance)


def test_clipping_bounds_the_whole_norm() -> None:
    assert float(clip_scale(torch.tensor(4.0), 1.0)) == pytest.approx(0.25)
    assert float(clip_scale(torch.tensor(0.5), 1.0)) == 1.0


def test_small_updates_survive_in_bfloat16_masters() -> None:
    model = torch.nn.Linear(1, 1, bias=False)
    with torch.no_grad():
        model.weight.fill_(1.0)
    masters = MasterWeights(model, "bfloat16")
    for _ in range(8):
        masters.weights["weight"] += 1e-3
        masters.publish()
    assert model.weight.dtype == torch.bfloat16
    assert model.weight.item() == pytest.approx(1.008, abs=0.004)
    assert float(masters.weights["weight"]) == pytest.approx(1.008, abs=1e-5)


def test_average_of_weights() -> None:
    average, weights = {"a": torch.zeros(1)}, {"a": torch.ones(1)}
    for _ in range(3):
        update_average(average, weights, 0.5)
    assert float(average["a"]) == pytest.approx(0.875)
