"""What changes over a run, as pure functions of how far it is: learning rate, batch size, weights of the losses.

`progress` is the share of the run's tokens seen before the step, 0 to 1.
"""

import math

from fathom.training.recipe import (
    BalanceV3,
    BatchSettings,
    CosineDecay,
    PredictionSettings,
    ScheduleSettings,
    StepDecay,
)


def learning_rate(settings: ScheduleSettings, step: int, progress: float) -> float:
    """The rate of step `step` (0-based): linear warm-up from 0 (V2, section 3.1.2; V3, section 4.2), then the decay."""
    if step < settings.warmup_steps:
        return settings.peak * (step + 1) / settings.warmup_steps
    if settings.steps is not None:
        return settings.peak * step_decay(settings.steps, progress)
    if settings.cosine is not None:
        return settings.peak * cosine_decay(settings.cosine, progress)
    return settings.peak


def step_decay(decay: StepDecay, progress: float) -> float:
    """V2, section 3.1.2: one factor for every share of the tokens that is behind."""
    return decay.factor ** sum(progress >= drop for drop in decay.drops)


def cosine_decay(decay: CosineDecay, progress: float) -> float:
    """V3, section 4.2: 1, a cosine to the floor, the floor, the last constant."""
    if progress < decay.constant_until:
        return 1.0
    if progress < decay.cosine_until:
        share = (progress - decay.constant_until) / (decay.cosine_until - decay.constant_until)
        return decay.floor + (1.0 - decay.floor) * 0.5 * (1.0 + math.cos(math.pi * share))
    return decay.floor if progress < decay.last_from else decay.last


def batch_sequences(settings: BatchSettings, progress: float) -> int:
    """Rows of the step: linear from `ramp_from` to `sequences`, in whole micro-batches (V3, section 4.2)."""
    if settings.ramp_from is None or progress >= settings.ramp_until:
        return settings.sequences
    grown = (settings.sequences - settings.ramp_from) * progress / settings.ramp_until
    return settings.ramp_from + int(grown) // settings.micro_sequences * settings.micro_sequences


def bias_speed(settings: BalanceV3, progress: float) -> float:
    """The step of the gates' biases: constant, then 0 (V3, section 4.2)."""
    return settings.bias_speed if progress < settings.bias_until else 0.0


def prediction_weight(settings: PredictionSettings, progress: float) -> float:
    """Lambda of the multi-token prediction loss (V3, section 4.2)."""
    return settings.weight if progress < settings.switch_at else settings.weight_after
