"""What a model's makers advise when a request says nothing: sampling settings, and an opening instruction."""

import dataclasses
import json
from dataclasses import dataclass
from typing import Any

from fathom.checkpoints import Checkpoint, CheckpointError, resolve
from fathom.checkpoints.sources import DEFAULT_REF
from fathom.engine.errors import InvalidRequestError
from fathom.engine.sampling import SamplingParams

_FILE = "generation_config.json"


@dataclass(frozen=True, slots=True)
class GenerationDefaults:
    """How a model answers unless a request says otherwise; what the request says always counts.

    Attributes:
        temperature, top_p, top_k, repetition_penalty: as in SamplingParams.
        system: the system message of conversations that bring none; None: what the chat template does by itself.

    """

    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    repetition_penalty: float = 1.0
    system: str | None = None

    def params(self, **given: Any) -> SamplingParams:
        """Sampling parameters from what is given by name; None means not given.

        Who asks for temperature 0 wants the model's most probable tokens: then nothing of the advice is left.
        """
        given = {name: value for name, value in given.items() if value is not None}
        if given.get("temperature") == 0:
            return SamplingParams(**given)
        advised = {key: value for key, value in dataclasses.asdict(self).items() if key != "system"}
        return SamplingParams(**advised | given)


# The embedded model's card advises temperature 0.2 and top-p 0.9. In four bits it loops on lists and verse without a
# penalty, and under its template's own system message (which names its makers) it answers simple questions in French:
# docs/log.md, "The default model's voice".
_EMBEDDED = GenerationDefaults(
    temperature=0.2, top_p=0.9, repetition_penalty=1.15, system="You are a helpful AI assistant."
)


def read_defaults(checkpoint: Checkpoint) -> GenerationDefaults:
    """From the checkpoint's generation_config.json (Hugging Face), or what is known of the embedded model.

    Raises:
        CheckpointError: the file is there and unreadable or absurd.

    """
    file = checkpoint.files.get(_FILE)
    if file is None:
        return _EMBEDDED if _is_embedded(checkpoint) else GenerationDefaults()
    try:
        stated = json.loads(file.read_text(encoding="utf-8"))
        return _from_generation_config(stated)
    except (ValueError, TypeError, AttributeError, InvalidRequestError) as error:
        raise CheckpointError(f"{file}: not a usable generation config ({error}); mend or remove it") from error


def _from_generation_config(stated: dict[str, Any]) -> GenerationDefaults:
    """Hugging Face's fields of the same names; `do_sample: false` there is no advice, only their default."""
    names = ("temperature", "top_p", "top_k", "repetition_penalty")
    defaults = GenerationDefaults(**{name: stated[name] for name in names if stated.get(name) is not None})
    defaults.params()  # checks the ranges
    return defaults


def _is_embedded(checkpoint: Checkpoint) -> bool:
    try:
        return checkpoint.path == resolve(DEFAULT_REF)
    except CheckpointError:  # its package is not installed
        return False
