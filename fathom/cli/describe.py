"""From what a person names (a preset, a config.json, a model on this machine) to its configuration alone."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from fathom.cli.errors import CommandError
from fathom.models import PRESETS, ModelConfig

if TYPE_CHECKING:
    from fathom.checkpoints.checkpoint import Checkpoint


@dataclass(frozen=True, slots=True)
class Described:
    """A configuration, where it comes from, and the checkpoint if there is one."""

    ref: str
    config: ModelConfig
    source: str
    checkpoint: "Checkpoint | None" = None


def describe(ref: str) -> Described:
    """Find `ref`: presets first, then config.json files, then models. Raises CommandError or a checkpoint's error."""
    if ref in PRESETS:
        return Described(ref, PRESETS[ref], "the published config.json")
    path = Path(ref).expanduser()
    if path.suffix == ".json" and path.is_file():
        return Described(ref, _read_config(path), str(path))
    from fathom.checkpoints.errors import SourceError
    from fathom.checkpoints.opening import open_checkpoint
    from fathom.checkpoints.sources import resolve

    try:
        checkpoint = open_checkpoint(resolve(ref))
    except SourceError as error:
        raise CommandError(f"{error}. Presets are: {', '.join(sorted(PRESETS))}") from error
    return Described(ref, checkpoint.config, str(checkpoint.path), checkpoint)


def _read_config(path: Path) -> ModelConfig:
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise CommandError(f"{path} cannot be read as JSON: {error}") from error
    if not isinstance(values, dict):
        raise CommandError(f"{path} is not a config.json: it holds no JSON object")
    return ModelConfig.from_hf(values)
