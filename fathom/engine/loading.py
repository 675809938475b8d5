"""From a model reference to an engine: checkpoint, tokenizer, template, runner, by the policy of this machine."""

import hashlib
import logging
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from fathom.checkpoints import Checkpoint, home, open_checkpoint, resolve
from fathom.engine import policy
from fathom.engine.defaults import read_defaults
from fathom.engine.engine import Engine
from fathom.engine.errors import InvalidRequestError
from fathom.engine.native_runner import NativeRunner
from fathom.engine.page_store import PageStore
from fathom.engine.pages import bytes_per_page
from fathom.engine.policy import Choice
from fathom.engine.runner import PagingRunner, Runner
from fathom.engine.speculation import MODES, SpeculationMode
from fathom.engine.stats import EngineLimits
from fathom.engine.thinking import find_thinker
from fathom.text import ChatTemplate, MissingTemplate, TemplateError, Tokenizer, chat_template

log = logging.getLogger("fathom.engine")

SAMPLES, SAMPLE_BYTES = 64, 4096  # of each weight file, to tell models apart

Progress = Callable[[str, float | None], None]
RunnerName = Literal["auto", "native", "torch"]


@dataclass(frozen=True, slots=True)
class Wishes:
    """What the caller of `load` said, "auto" and None where nothing."""

    runner: RunnerName
    device: str
    dtype: str
    threads: int | None
    max_context: int | None
    cache_bytes: int | None
    limits: EngineLimits


def load(
    ref: str | Path,
    *,
    runner: RunnerName = "auto",
    device: str = "auto",
    dtype: str = "auto",
    threads: int | None = None,
    max_context: int | None = None,
    cache_bytes: int | None = None,
    dialect: str | None = None,
    speculation: SpeculationMode = "auto",
    disk_cache_bytes: int = 0,
    limits: EngineLimits | None = None,
    progress: Progress | None = None,
) -> Engine:
    """Load a model and start an engine on it.

    Args:
        ref: `smollm2:135m`, a folder, a .gguf file, or a hub repository that was pulled.
        runner: "native" runs the weights as stored through the C++ kernels (CPU), "torch" runs every architecture on
            every device; "auto" takes native where it can, and torch, saying why, where it cannot.
        device: "auto", "cpu", "cuda", "cuda:1"...
        dtype: "auto", "float32", "bfloat16", "float16"; anything but "auto" means PyTorch.
        threads: CPU threads; None or 0: one for each physical core.
        max_context: most tokens of one request; None: what the model was trained for.
        cache_bytes: memory for the cache; None: a share of what is free.
        dialect: how conversations are written, such as "chatml" or "deepseek-r1"; None: as the checkpoint says. A base
            model, which says nothing, takes plain prompts only.
        speculation: "auto", "lookup" or "off": see `Engine`.
        disk_cache_bytes: what prefixes of all models may take on disk, under `fathom.checkpoints.home()`; 0: keep none.
        limits: bounds of step, batch and queue; None: by device.
        progress: called with what is being done and, where known, how much of it (0 to 1).

    Raises:
        CheckpointError: the model is missing or broken. TokenizerError: its tokenizer is.
        InvalidRequestError: the wishes contradict each other or this machine.

    """
    if speculation not in MODES:
        raise InvalidRequestError(f"speculation is {speculation!r}; use {', '.join(MODES)}")
    report = progress or (lambda _stage, _fraction: None)
    report("opening the checkpoint", None)
    path = resolve(str(ref))
    checkpoint = open_checkpoint(path)
    report("reading the tokenizer", None)
    tokenizer = read_tokenizer(checkpoint)
    place, device_choice = policy.choose_device(device)
    wishes = Wishes(runner, device, dtype, threads, max_context, cache_bytes, limits or policy.choose_limits(place))
    report("loading the weights", None)
    made, choices = _make_runner(checkpoint, wishes, place)
    choices = {"device": device_choice, **choices}
    template = read_template(tokenizer, dialect)
    thinker = None if dialect is not None or template.thinks else find_thinker(checkpoint)
    if thinker is not None:
        choices["thinking"] = Choice(thinker.name, f"the adapter {thinker.folder} thinks for this model")
    for what, choice in choices.items():
        log.info("%s: %s", what, choice)
    return Engine(
        made,
        tokenizer,
        template,
        model_name=name_of(ref),
        config=checkpoint.config,
        limits=wishes.limits,
        policy=policy.in_words(choices),
        defaults=read_defaults(checkpoint),
        speculation=speculation,
        thinker=thinker,
        store=_store(checkpoint, made, disk_cache_bytes),
    )


def _store(checkpoint: Checkpoint, runner: Runner, limit_bytes: int) -> PageStore | None:
    if not limit_bytes or not isinstance(runner, PagingRunner):
        return None
    return PageStore(home() / "cache" / "prefixes", fingerprint(checkpoint, runner.page_format), limit_bytes)


def fingerprint(checkpoint: Checkpoint, page_format: str) -> bytes:
    """16 bytes that tell apart models and formats: the configuration, the weight files' sizes and samples of them.

    Reading all weights would take longer than computing the prefix. Training changes every tensor, so samples suffice.
    """
    digest = hashlib.blake2b(digest_size=16, person=b"fathom-pages")
    digest.update(f"{page_format} {checkpoint.config}".encode())
    path = checkpoint.path
    for file in sorted(path.glob("*.safetensors")) if path.is_dir() else [path]:
        size = file.stat().st_size
        digest.update(f" {file.name} {size} ".encode())
        with file.open("rb") as opened:
            for at in range(0, size, max(size // SAMPLES, SAMPLE_BYTES)):
                opened.seek(at)
                digest.update(opened.read(SAMPLE_BYTES))
    return digest.digest()


def read_tokenizer(checkpoint: Checkpoint) -> Tokenizer:
    """The checkpoint's tokenizer: from a GGUF file's own metadata, else from the files beside the weights."""
    if "tokenizer.ggml.model" in checkpoint.metadata:
        return Tokenizer.from_gguf(checkpoint.metadata)
    return Tokenizer.from_folder(checkpoint.path if checkpoint.path.is_dir() else checkpoint.path.parent)


def read_template(tokenizer: Tokenizer, dialect: str | None = None) -> ChatTemplate:
    """How the model wants conversations; for a base model a template that refuses them.

    Raises:
        InvalidRequestError: there is no such dialect.

    """
    try:
        return chat_template(tokenizer, dialect=dialect)
    except TemplateError as error:
        if dialect is not None:
            raise InvalidRequestError(str(error)) from error
        return MissingTemplate(str(error))


def name_of(ref: str | Path) -> str:
    """What a model is called: its reference, or the last part of its path."""
    path = Path(ref).expanduser()
    return path.resolve().name.removesuffix(".gguf") if path.exists() else str(ref)


def _make_runner(checkpoint: Checkpoint, wishes: Wishes, device: str) -> tuple[Runner, dict[str, Choice]]:
    why_not = _why_not_native(checkpoint, wishes, device)
    if why_not is None:
        return _native(checkpoint, wishes, device)
    if wishes.runner == "native":
        raise InvalidRequestError(f"the native runner was asked for, but {why_not}; use runner='torch'")
    made, choices = _torch(checkpoint, wishes, device)
    return made, {"runner": Choice(made.name, why_not), **choices}


def _why_not_native(checkpoint: Checkpoint, wishes: Wishes, device: str) -> str | None:
    if wishes.runner == "torch":
        return "asked for"
    if device != "cpu":
        return f"the native kernels run on the CPU, not on {device}"
    if wishes.dtype != "auto":
        return f"{wishes.dtype} was asked for, and the native kernels have formats of their own"
    return NativeRunner.supports(checkpoint)


def _native(checkpoint: Checkpoint, wishes: Wishes, device: str) -> tuple[Runner, dict[str, Choice]]:
    threads, thread_choice = policy.choose_threads(wishes.threads)
    weights = sum(checkpoint.info(name).bytes for name in checkpoint.names())
    context = _context(checkpoint, wishes)
    n_pages, cache_choice = policy.choose_pages(
        wishes.cache_bytes,
        bytes_per_page=bytes_per_page(checkpoint.config, policy.DTYPES["bfloat16"]),
        max_context=context,
        max_running=wishes.limits.max_running,
        free_bytes=max(0, policy.free_memory(device) - weights),
        device=device,
    )
    made = NativeRunner(checkpoint, n_pages=n_pages, max_context=context, threads=threads)
    checkpoint.release()  # the weights have been copied; what was read of the file need not stay beside them
    runner_choice = Choice(
        made.name, "asked for" if wishes.runner == "native" else "it can run these weights as stored"
    )
    return made, {"runner": runner_choice, "threads": thread_choice, "cache": cache_choice}


def _torch(checkpoint: Checkpoint, wishes: Wishes, device: str) -> tuple[Runner, dict[str, Choice]]:
    import torch

    from fathom.checkpoints import load_model
    from fathom.engine.torch_runner import TorchRunner

    dtype, dtype_choice = policy.choose_dtype(wishes.dtype, device)
    threads, thread_choice = policy.choose_threads(wishes.threads)
    torch.set_num_threads(threads)
    model = load_model(checkpoint, dtype=getattr(torch, dtype), device=device)
    context = _context(checkpoint, wishes)
    n_pages, cache_choice = policy.choose_pages(
        wishes.cache_bytes,
        bytes_per_page=bytes_per_page(checkpoint.config, policy.DTYPES[dtype]),
        max_context=context,
        max_running=wishes.limits.max_running,
        free_bytes=policy.free_memory(device),
        device=device,
    )
    made = TorchRunner(model, n_pages=n_pages, max_context=context)
    return made, {"dtype": dtype_choice, "threads": thread_choice, "cache": cache_choice}


def _context(checkpoint: Checkpoint, wishes: Wishes) -> int:
    trained = checkpoint.config.max_position_embeddings
    if wishes.max_context is None:
        return trained
    if not 2 <= wishes.max_context <= trained:
        raise InvalidRequestError(f"max_context is {wishes.max_context}; this model takes 2 to {trained} tokens")
    return wishes.max_context
