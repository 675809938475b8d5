"""`fathom export REF FOLDER`: write a checkpoint for other engines."""

import argparse

from fathom.cli.errors import CommandError
from fathom.cli.terminal import answer_json, note

DESCRIPTION = (
    "Convert a model to a Hugging Face folder of safetensors that transformers, vLLM and SGLang load, or to a .gguf "
    "file for llama.cpp and its like, tokenizer and chat template included. Works on a CPU with little memory; a "
    "folder goes on where it was interrupted."
)
EXAMPLE = (
    "fathom export deepseek-ai/DeepSeek-V3 ./v3-bf16 --dtype bf16\n  "
    "fathom export ./run ./run.gguf --to gguf --dtype q8_0"
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
    parser.add_argument("--json", action="store_true", help="one JSON object: ref, path, dtype")


def run(arguments: argparse.Namespace) -> int:
    """Convert it."""
    from fathom.checkpoints.export import export
    from fathom.checkpoints.gguf_export import export_gguf

    ref, dtype = arguments.ref, arguments.dtype
    if dtype not in _DTYPES[arguments.to]:
        raise CommandError(f"--to {arguments.to} writes {', '.join(_DTYPES[arguments.to])}, not {dtype}", code=2)
    if arguments.to == "gguf":
        path = export_gguf(ref, arguments.folder, dtype=dtype, report=note)
    else:
        shard_bytes = int(arguments.max_shard_gb * 1e9)
        path = export(ref, arguments.folder, dtype=dtype, max_shard_bytes=shard_bytes, report=note)
    if arguments.json:
        answer_json({"ref": arguments.ref, "path": str(path), "dtype": arguments.dtype})
    else:
        note(f"{arguments.ref} is at {path} in {arguments.dtype}")
    return 0
