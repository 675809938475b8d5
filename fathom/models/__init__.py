"""What models are (`ModelConfig`, `PRESETS`), without torch; what they compute is in `fathom.models.transformer`."""

from fathom.models.checks import ConfigError
from fathom.models.config import Fp8Quantization, ModelConfig, RopeScaling
from fathom.models.presets import PRESETS

__all__ = ["PRESETS", "ConfigError", "Fp8Quantization", "ModelConfig", "RopeScaling"]
