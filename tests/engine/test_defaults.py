"""What holds where a request says nothing: a model's own generation config, or what is known of the embedded model."""

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from fathom.checkpoints import Checkpoint, CheckpointError, open_checkpoint
from fathom.engine.defaults import GenerationDefaults, read_defaults
from fathom.engine.sampling import SamplingParams


def checkpoint_with(folder: Path, stated: Any) -> Checkpoint:
    file = folder / "generation_config.json"
    file.write_text(stated if isinstance(stated, str) else json.dumps(stated))
    return cast(Checkpoint, SimpleNamespace(path=folder, files={file.name: file}))


def test_what_is_given_counts_before_the_defaults() -> None:
    defaults = GenerationDefaults(temperature=0.6, top_p=0.95, repetition_penalty=1.2, system="Be kind.")
    given = defaults.params(temperature=0.9, seed=7, top_k=None)
    assert given == SamplingParams(temperature=0.9, top_p=0.95, repetition_penalty=1.2, seed=7)


def test_temperature_0_is_the_most_probable_token_whatever_the_advice() -> None:
    advice = GenerationDefaults(temperature=0.6, top_k=5, repetition_penalty=1.2)
    assert advice.params(temperature=0.0, seed=7) == SamplingParams(temperature=0.0, seed=7)


def test_without_any_advice_the_models_own_distribution_is_sampled() -> None:
    assert GenerationDefaults().params() == SamplingParams()


def test_advice_is_read_from_generation_config(tmp_path: Path) -> None:
    # As DeepSeek-R1's distilled students have it.
    stated = {"_from_model_config": True, "do_sample": True, "eos_token_id": 1, "temperature": 0.6, "top_p": 0.95}
    assert read_defaults(checkpoint_with(tmp_path, stated)) == GenerationDefaults(temperature=0.6, top_p=0.95)


@pytest.mark.parametrize("stated", ["{", "[]", {"temperature": "hot"}, {"top_p": 7}, {"top_k": -3}])
def test_a_broken_generation_config_is_an_error_that_names_the_file(tmp_path: Path, stated: Any) -> None:
    with pytest.raises(CheckpointError, match=r"generation_config\.json"):
        read_defaults(checkpoint_with(tmp_path, stated))


def test_the_embedded_model_brings_its_own(smollm2_gguf: Path, tmp_path: Path) -> None:
    assert read_defaults(open_checkpoint(smollm2_gguf)).system is not None
    copy = tmp_path / "other.gguf"
    copy.symlink_to(smollm2_gguf)
    assert read_defaults(cast(Checkpoint, SimpleNamespace(path=copy, files={}))) == GenerationDefaults()
