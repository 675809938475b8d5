"""Which device, number format, threads and cache size an engine gets when nobody says: stated, logged, in the stats.

- device: CUDA where there is one, else the CPU.
- number format: BF16 on CUDA and on CPUs that multiply it natively (avx512_bf16, amx_bf16, ARM's bf16); else float32,
  which other CPUs compute faster than an emulated BF16.
- threads: the physical cores this process may run on. Hyper-threads share the units that matrix products keep busy.
- cache: on the CPU an eighth of the memory that is free once the weights are loaded, but room for one whole context if
  half of it suffices; on CUDA 85 %. Never more than all sequences that may run can fill.
- step: 256 tokens on the CPU, so that a long prompt does not hold up those who read; 2048 on CUDA.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from fathom.engine.errors import InvalidRequestError
from fathom.engine.machine import available_memory, cpu_flags, may_have_cuda, physical_cores
from fathom.engine.pages import PAGE_TOKENS
from fathom.engine.stats import EngineLimits

DTYPES = {"float32": 4, "bfloat16": 2, "float16": 2}  # names and bytes
CPU_SHARE, CPU_SHARE_AT_MOST, CUDA_SHARE = 0.125, 0.5, 0.85
NATIVE_BFLOAT16 = ("amx_bf16", "avx512_bf16", "bf16")


@dataclass(frozen=True, slots=True)
class Choice:
    """A value and why it was chosen."""

    value: str
    why: str

    def __str__(self) -> str:
        return f"{self.value} ({self.why})"


def choose_device(asked: str) -> tuple[str, Choice]:
    """The device for "auto", "cpu", "cuda" or "cuda:1". PyTorch is asked only where it may know another."""
    if asked == "cpu":
        return asked, Choice(asked, "asked for")
    if asked == "auto" and not may_have_cuda():
        return "cpu", Choice("cpu", "there is no CUDA device")
    import torch

    if asked != "auto":
        if is_cuda(asked) and not torch.cuda.is_available():
            raise InvalidRequestError("device cuda was asked for, but PyTorch finds no CUDA here; use cpu or auto")
        return str(torch.device(asked)), Choice(asked, "asked for")
    if torch.cuda.is_available():
        return "cuda", Choice("cuda", torch.cuda.get_device_name())
    return "cpu", Choice("cpu", "PyTorch finds no CUDA device")


def is_cuda(device: str) -> bool:
    """Whether this is the name of a CUDA device."""
    return device.partition(":")[0] == "cuda"


def choose_dtype(asked: str, device: str) -> tuple[str, Choice]:
    """The name in DTYPES of the number format of weights, activations and cache, for "auto" or one of them."""
    if asked != "auto":
        if asked not in DTYPES:
            raise InvalidRequestError(f"dtype {asked!r} is not known; use auto, {', '.join(DTYPES)}")
        return asked, Choice(asked, "asked for")
    if is_cuda(device):
        return "bfloat16", Choice("bfloat16", "CUDA")
    native = [flag for flag in NATIVE_BFLOAT16 if flag in cpu_flags()]
    if native:
        return "bfloat16", Choice("bfloat16", f"this CPU has {native[0]}")
    return "float32", Choice("float32", "this CPU has no instructions for bfloat16")


def choose_threads(asked: int | None) -> tuple[int, Choice]:
    """CPU threads; None or 0: one for each physical core this process may use."""
    if asked:
        if asked < 0:
            raise InvalidRequestError(f"threads is {asked}; it must be at least 1, or 0 for the machine's cores")
        return asked, Choice(str(asked), "asked for")
    cores = physical_cores()
    return cores, Choice(str(cores), "physical cores available to this process")


def choose_limits(device: str) -> EngineLimits:
    """Bounds of step and batch."""
    if is_cuda(device):
        return EngineLimits(max_step_tokens=2048, max_running=256)
    return EngineLimits()


def choose_pages(
    asked_bytes: int | None,
    *,
    bytes_per_page: int,
    max_context: int,
    max_running: int,
    free_bytes: int,
    device: str,
) -> tuple[int, Choice]:
    """Pages of cache, from bytes that were asked for or from a share of the free memory."""
    pages_per_context = -(-max_context // PAGE_TOKENS)
    if asked_bytes is not None:
        budget, why = asked_bytes, "asked for"
    elif is_cuda(device):
        budget, why = int(free_bytes * CUDA_SHARE), f"{CUDA_SHARE:.0%} of the device's free memory"
    else:
        one_context = min(pages_per_context * bytes_per_page, int(free_bytes * CPU_SHARE_AT_MOST))
        budget, why = max(int(free_bytes * CPU_SHARE), one_context), f"from {_size(free_bytes)} of free memory"
    n_pages = min(budget // bytes_per_page, max_running * pages_per_context)
    if n_pages < 1:
        raise InvalidRequestError(
            f"a cache of {_size(budget)} does not hold one page of {_size(bytes_per_page)}; give more cache_bytes"
        )
    tokens = n_pages * PAGE_TOKENS
    if tokens < max_context:
        why += f"; less than the context of {max_context} tokens"
    return n_pages, Choice(f"{_size(n_pages * bytes_per_page)} for {tokens} tokens", why)


def free_memory(device: str) -> int:
    """Bytes that can still be allocated on a device."""
    if is_cuda(device):
        import torch

        free: int = torch.cuda.mem_get_info(device)[0]
        return free
    return available_memory()


def in_words(choices: Mapping[str, Choice]) -> dict[str, str]:
    """Choices as the stats and the log show them."""
    return {name: str(choice) for name, choice in choices.items()}


def _size(n_bytes: float) -> str:
    return f"{n_bytes / 2**30:.2f} GiB" if n_bytes >= 2**30 else f"{n_bytes / 2**20:.1f} MiB"
