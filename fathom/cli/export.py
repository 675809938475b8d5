"""`fathom export REF FOLDER`: write a checkpoint for other engines."""

import argparse

from fathom.cli.terminal import answer_json, note

DESCRIPTION = (
    "Convert a model to a Hugging Face folder of safetensors that transformers, vLLM and SGLang load. Works on a CPU "
    "with little memory, and goes on where it was interrupted."
)
EXAMPLE = "fathom export deepseek-ai/DeepSeek-V3 ./v3-bf16 --dtype bf16"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """What, where to, and in which number format."""
    parser.add_argument("ref", metavar="REF", help="smollm2:135m, ORG/NAME, a folder or a file")
    parser.add_argument("folder", metavar="FOLDER", help="must not hold a model yet")
    parser.add_argument("--to", choices=["hf"], default="hf", help="the layout (this version writes hf only)")
    formats = ["bf16", "f16", "f32", "fp8"]
    parser.add_argument("--dtype", choices=formats, default="bf16", help="number format (default bf16)")
    parser.add_argument("--max-shard-gb", type=float, default=5.0, metavar="GB", help="largest file (default 5)")
    parser.add_argument("--json", action="store_true", help="one JSON object: ref, path, dtype")


def run(arguments: argparse.Namespace) -> int:
    """Convert it."""
    from fathom.checkpoints.export import export

    shard_bytes = int(arguments.max_shard_gb * 1e9)
    path = export(arguments.ref, arguments.folder, dtype=arguments.dtype, max_shard_bytes=shard_bytes, report=note)
    if arguments.json:
        answer_json({"ref": arguments.ref, "path": str(path), "dtype": arguments.dtype})
    else:
        note(f"{arguments.ref} is at {path} in {arguments.dtype}")
    return 0
