"""`fathom export REF FOLDER`: write a checkpoint for other engines."""

import argparse
from pathlib import Path

from fathom.cli.errors import CommandError
from fathom.cli.terminal import answer_json, note

DESCRIPTION = (
    "Convert a model to a Hugging Face folder of safetensors that transformers, vLLM and SGLang load, or to a .gguf "
    "file for llama.cpp and its like, tokenizer and chat template included. Works on a CPU with little memory; a "
    "folder goes on where it was interrupted. A low-rank adapter is written in PEFT's layout; `--mix` averages it with "
    "a relative."
)
EXAMPLE = (
    "fathom export deepseek-ai/DeepSeek-V3 ./v3-bf16 --dtype bf16\n  "
    "fathom export ./run ./run.gguf --to gguf --dtype q8_0\n  "
    "fathom export ./early ./adapter --mix ./late --share 0.7"
)
_DTYPES = {"hf": ("bf16", "f16", "f32", "fp8"), "gguf": ("bf16", "f16", "f32", "q8_0", "q4_0")}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """What, where to, and in which number format."""
    parser.add_argument("ref", metavar="REF", help="smollm2:135m, ORG/NAME, a folder or a file")
    parser.add_argument("folder", metavar="FOLDER", help="must not hold a model yet; for gguf also a file's name")
    parser.add_argument("--to", choices=list(_DTYPES), default="hf", help="the layout (default hf)")
    formats = sorted({dtype for dtypes in _DTYPES.values() for dtype in dtypes})
    parser.add_argument(
        "--dtype", choices=formats, default="bf16", help="number format (default bf16; fp8 for hf, q8_0, q4_0 for gguf)"
    )
    parser.add_argument("--max-shard-gb", type=float, default=5.0, metavar="GB", help="largest file (default 5)")
    parser.add_argument("--mix", type=Path, metavar="FOLDER", help="adapters: one that was trained on from this one")
    parser.add_argument("--share", type=float, default=0.5, help="how much of the mean is --mix (0 to 1, default 0.5)")
    parser.add_argument("--json", action="store_true", help="one JSON object: ref, path, dtype")


def run(arguments: argparse.Namespace) -> int:
    """Convert it."""
    from fathom.checkpoints.adapters import is_adapter
    from fathom.checkpoints.export import export
    from fathom.checkpoints.gguf_export import export_gguf

    ref, dtype = arguments.ref, arguments.dtype
    if dtype not in _DTYPES[arguments.to]:
        raise CommandError(f"--to {arguments.to} writes {', '.join(_DTYPES[arguments.to])}, not {dtype}", code=2)
    if arguments.mix is not None or is_adapter(Path(ref)):
        path = _export_adapter(arguments)
    elif arguments.to == "gguf":
        path = export_gguf(ref, arguments.folder, dtype=dtype, report=note)
    else:
        shard_bytes = int(arguments.max_shard_gb * 1e9)
        path = export(ref, arguments.folder, dtype=dtype, max_shard_bytes=shard_bytes, report=note)
    if arguments.json:
        answer_json({"ref": arguments.ref, "path": str(path), "dtype": arguments.dtype})
    else:
        note(f"{arguments.ref} is at {path} in {arguments.dtype}")
    return 0


def _export_adapter(arguments: argparse.Namespace) -> Path:
    from fathom.checkpoints.adapters import is_adapter, read_adapter, write_adapter
    from fathom.checkpoints.dtypes import DTYPES

    folder, share = Path(arguments.folder), arguments.share
    if arguments.to != "hf" or arguments.dtype == "fp8":
        raise CommandError("an adapter is written with --to hf in bf16, f16 or f32", code=2)
    if not 0 <= share <= 1:
        raise CommandError(f"--share is between 0 and 1, not {share}", code=2)
    if is_adapter(folder):
        raise CommandError(f"{folder} holds an adapter already: choose another folder")
    stored = read_adapter(arguments.ref)
    adapter = stored.adapter
    if arguments.mix is not None:
        try:
            adapter = adapter.towards(read_adapter(arguments.mix).adapter, share)
        except ValueError as error:
            raise CommandError(str(error)) from error
    folder.mkdir(parents=True, exist_ok=True)
    write_adapter(folder, adapter, base=stored.base, dtype=DTYPES[arguments.dtype.upper()])
    return folder
