"""Thinking by an adapter: for a base model that cannot think, weights beside it that can, used when thinking is asked.

The default model has one, `models/fathom-r1-smol` of this repository (recipes/r1 makes it); other models get theirs by
FATHOM_THINKER, a folder in PEFT's layout.
"""

import logging
import os
from dataclasses import dataclass, replace
from pathlib import Path

from fathom.checkpoints import Checkpoint, CheckpointError, home, resolve
from fathom.checkpoints.adapters import StoredAdapter, is_adapter, read_adapter
from fathom.checkpoints.sources import DEFAULT_REF, released
from fathom.engine.defaults import GenerationDefaults
from fathom.engine.request import Request
from fathom.text import ChatTemplate
from fathom.text.templates.chatml import ChatML

log = logging.getLogger("fathom.engine")

NAME = "fathom-r1-smol"
_VARIABLE = "FATHOM_THINKER"


@dataclass(frozen=True, slots=True)
class Thinker:
    """An adapter that thinks. `max_thought_tokens`: where a request sets no bound, its thought ends here at the latest
    and the answer follows.
    """

    name: str
    stored: StoredAdapter
    folder: Path
    max_thought_tokens: int = 512

    def template(self, template: ChatTemplate) -> ChatTemplate:
        """The base model's way of writing conversations, with thoughts."""
        if isinstance(template, ChatML) and not template.thinks:
            return ChatML(template.tokenizer, template.default_system, thinks=True)
        return template

    def take(self, request: Request, defaults: GenerationDefaults, room: int) -> Request:
        """A request that begins with a thought, as this adapter is to answer it; every other one as it is.

        The base model's advised repetition penalty is lifted: a worked thought has to write the same digits again.
        """
        if request.prompt.channel != "thought" or request.adapter is not None or request.plain:
            return request
        params = request.params
        if params.repetition_penalty == defaults.repetition_penalty:
            params = replace(params, repetition_penalty=1.0)
        bound = request.max_thought_tokens
        if bound is None:
            most = room if params.max_tokens is None else min(params.max_tokens, room)
            bound = max(1, min(self.max_thought_tokens, most - most // 4))
        return replace(request, adapter=self.name, params=params, max_thought_tokens=bound)


def find_thinker(checkpoint: Checkpoint) -> Thinker | None:
    """The adapter that thinks for this model, or None. A broken one is reported and left out: the model still answers.

    Looked for in FATHOM_THINKER ("off": none), and for the default model in this checkout or package and in
    FATHOM_HOME/adapters.
    """
    stated = os.environ.get(_VARIABLE, "")
    if stated == "off":
        return None
    folders = [Path(stated).expanduser()] if stated else _released(checkpoint)
    folder = next((folder for folder in folders if is_adapter(folder)), None)
    if folder is None:
        if stated:
            log.warning("%s=%s holds no adapter; the model answers without thoughts", _VARIABLE, stated)
        return None
    try:
        return Thinker(NAME if not stated else folder.name, read_adapter(folder), folder)
    except CheckpointError as error:
        log.warning("%s; the model answers without thoughts", error)
        return None


def _released(checkpoint: Checkpoint) -> list[Path]:
    try:
        default = resolve(DEFAULT_REF)
    except CheckpointError:  # its package is not installed
        return []
    if checkpoint.path != default:
        return []
    return [folder for folder in (released(NAME), home() / "adapters" / NAME) if folder is not None]
