"""What models cost: parameters, bytes, operations, GPU hours, money; from the config alone, without torch."""

from fathom.costs.model import (
    ModelCosts,
    cache_bytes_per_token,
    checkpoint_bytes,
    forward_flops_per_token,
    model_costs,
    training_flops_per_token,
    weights_bytes,
)
from fathom.costs.parameters import Component, components, prediction_components
from fathom.costs.training import DEFAULT_MFU, DEFAULT_PRICE_USD, PEAK_FLOPS, TrainingCost, training_cost

__all__ = [
    "DEFAULT_MFU",
    "DEFAULT_PRICE_USD",
    "PEAK_FLOPS",
    "Component",
    "ModelCosts",
    "TrainingCost",
    "cache_bytes_per_token",
    "checkpoint_bytes",
    "components",
    "forward_flops_per_token",
    "model_costs",
    "prediction_components",
    "training_cost",
    "training_flops_per_token",
    "weights_bytes",
]
