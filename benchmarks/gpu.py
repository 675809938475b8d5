"""What the CUDA kernels reach of this card's own measured limits. One command: benchmarks/gpu.sh

Prints one JSON object a line. `--small` runs every measurement at toy sizes, also without a GPU through Triton's
interpreter, to see that the script works; its numbers mean nothing.
"""

import argparse
import json
import os
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch

if not torch.cuda.is_available():
    os.environ["TRITON_INTERPRET"] = "1"

from fathom.kernels.triton.block_scaled import block_scaled_linear, quantise_tiles
from fathom.kernels.triton.latent import latent_decode

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
PAGE = 64


@dataclass(frozen=True)
class Sizes:
    """How large the measurements are."""

    copy_bytes: int
    matrix: int
    contexts: tuple[int, ...]
    batch: int
    heads: int
    rank: int
    rope: int
    repeats: int


LARGE = Sizes(2**30, 8192, (1024, 4096, 16384), 64, 128, 512, 64, 20)
SMALL = Sizes(2**20, 256, (128,), 2, 16, 32, 16, 1)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--small", action="store_true", help="toy sizes: does the script work?")
    small = parser.parse_args().small
    if DEVICE == "cpu" and not small:
        raise SystemExit("no CUDA device here; --small runs the script through Triton's interpreter")
    sizes = SMALL if small else LARGE
    say(device=torch.cuda.get_device_name() if DEVICE == "cuda" else "interpreter", torch=torch.__version__)
    bandwidth = measure_copy(sizes)
    measure_latent_decode(sizes, bandwidth)
    measure_products(sizes)
    measure_decode_step(small)


def measure_copy(sizes: Sizes) -> float:
    """Bytes read and written per second by a device copy: the bandwidth ceiling."""
    source = torch.empty(sizes.copy_bytes, dtype=torch.uint8, device=DEVICE)
    target = torch.empty_like(source)
    rate = 2 * sizes.copy_bytes / seconds(lambda: target.copy_(source), sizes.repeats)
    say(what="copy", gigabytes_per_second=rate / 1e9)
    return rate


def measure_latent_decode(sizes: Sizes, bandwidth: float) -> None:
    """One new token for each of a batch over a paged latent cache: bytes of entries read per second."""
    dtype = torch.bfloat16 if DEVICE == "cuda" else torch.float32
    width = sizes.rank + sizes.rope
    for context in sizes.contexts:
        pages = -(-context // PAGE)
        slots = torch.randn(sizes.batch * pages * PAGE, width, device=DEVICE).to(dtype)
        table = torch.randperm(sizes.batch * pages, device=DEVICE).view(sizes.batch, pages).int()
        lengths = torch.full((sizes.batch,), context, dtype=torch.int32, device=DEVICE)
        query = torch.randn(sizes.batch, sizes.heads, width, device=DEVICE).to(dtype)
        taken = seconds(lambda: latent_decode(query, slots, table, lengths, sizes.rank, 0.07, PAGE), sizes.repeats)  # noqa: B023
        rate = sizes.batch * context * width * dtype.itemsize / taken
        operations = 2 * sizes.batch * sizes.heads * context * (width + sizes.rank)
        say(
            what="latent decode", batch=sizes.batch, heads=sizes.heads, context=context, milliseconds=taken * 1e3,
            gigabytes_per_second=rate / 1e9, share_of_copy=rate / bandwidth, teraflops=operations / taken / 1e12,
        )  # fmt: skip


def measure_products(sizes: Sizes) -> None:
    """Square products: BF16 and plain FP8 by PyTorch (the ceilings), and ours with DeepSeek's block scales."""
    size = sizes.matrix
    operations = 2 * size**3
    left, right = (torch.randn(size, size, device=DEVICE, dtype=torch.bfloat16) for _ in range(2))
    rate = operations / seconds(lambda: left @ right.T, sizes.repeats)
    say(what="bf16 product", size=size, teraflops=rate / 1e12)
    plain = None
    if DEVICE == "cuda":
        one = torch.ones((), device=DEVICE)
        a, b = left.to(torch.float8_e4m3fn), right.to(torch.float8_e4m3fn)
        taken = seconds(lambda: torch._scaled_mm(a, b.T, one, one, out_dtype=torch.bfloat16), sizes.repeats)
        plain = operations / taken
        say(what="fp8 product, one scale", size=size, teraflops=plain / 1e12)
    x, x_scales = quantise_tiles(left.float())
    weight, _ = quantise_tiles(right.float())
    scales = torch.ones(-(-size // 128), -(-size // 128), device=DEVICE)
    rate = operations / seconds(lambda: block_scaled_linear(x, x_scales, weight, scales), sizes.repeats)
    say(what="fp8 product, block scales", size=size, teraflops=rate / 1e12, share_of_plain=plain and rate / plain)


def measure_decode_step(small: bool) -> None:
    """Tokens per second of one sequence through the engine's runner, a random Qwen2 of the 0.5B class."""
    from dataclasses import replace

    from fathom.engine.runner import SequenceStep
    from fathom.engine.torch_runner import TorchRunner
    from fathom.models import PRESETS
    from fathom.models.transformer import Transformer

    config = PRESETS["tiny-qwen2"]
    if not small:
        config = replace(
            PRESETS["r1-distill-qwen-1.5b"], hidden_size=896, num_hidden_layers=24, num_attention_heads=14,
            num_key_value_heads=2, head_dim=64, intermediate_size=4864, tie_word_embeddings=True,
        )  # fmt: skip
    model = Transformer(config).to(DEVICE, torch.bfloat16).eval()
    runner = TorchRunner(model, n_pages=16, max_context=1024)
    pages, count = list(range(8)), 4 if small else 200
    runner.step([SequenceStep([1] * 64, 0, pages, 63)])
    began = time.perf_counter()
    for start in range(64, 64 + count):
        runner.step([SequenceStep([7], start, pages, 0)]).argmax().item()
    say(what="decode, 1 sequence, 0.5B class", tokens_per_second=count / (time.perf_counter() - began))


def seconds(run: Callable[[], object], repeats: int) -> float:
    """Median over repeats, after one run that compiles."""
    run()
    times = []
    for _ in range(repeats):
        wait()
        began = time.perf_counter()
        run()
        wait()
        times.append(time.perf_counter() - began)
    return statistics.median(times)


def wait() -> None:
    if DEVICE == "cuda":
        torch.cuda.synchronize()


def say(**what: object) -> None:
    print(json.dumps({key: round(value, 3) if isinstance(value, float) else value for key, value in what.items()}))


if __name__ == "__main__":
    main()
