"""What is chosen for a machine, and what is said about it."""

import pytest
import torch

from fathom.engine import machine, policy
from fathom.engine.errors import InvalidRequestError

CPU, CUDA = "cpu", "cuda"
MIB = 2**20


def pages(asked: int | None = None, *, free: int = 800 * MIB, context: int = 6400, device: str = CPU) -> int:
    chosen, _ = policy.choose_pages(
        asked, bytes_per_page=MIB, max_context=context, max_running=4, free_bytes=free, device=device
    )
    return chosen


def test_the_cache_is_what_was_asked_for_or_a_share_of_what_is_free() -> None:
    assert pages(7 * MIB) == 7
    assert pages(free=8000 * MIB, context=64 * 1000) == 1000  # an eighth
    assert pages(free=800 * MIB, context=64 * 300) == 300  # one context, since half of the memory holds it
    assert pages(free=400 * MIB, context=64 * 300) == 200  # half of the memory
    assert pages(free=1000 * MIB, context=64 * 500, device=CUDA) == 850
    assert pages(10**12, context=640) == 4 * 10  # more than all sequences can fill is never taken
    with pytest.raises(InvalidRequestError, match="cache_bytes"):
        pages(MIB - 1)


def test_number_formats_follow_the_processor(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(policy, "cpu_flags", lambda: frozenset({"avx2"}))
    assert policy.choose_dtype("auto", CPU)[0] == "float32"
    monkeypatch.setattr(policy, "cpu_flags", lambda: frozenset({"avx512_bf16"}))
    dtype, choice = policy.choose_dtype("auto", CPU)
    assert dtype == "bfloat16"
    assert "avx512_bf16" in str(choice)
    assert policy.choose_dtype("auto", CUDA)[0] == "bfloat16"
    assert policy.choose_dtype("float32", CPU)[0] == "float32"
    with pytest.raises(InvalidRequestError, match="int3"):
        policy.choose_dtype("int3", CPU)


def test_hyper_threads_and_quotas_are_not_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine.os, "sched_getaffinity", lambda _: {0, 1, 2, 3}, raising=False)
    files = {f"cpu{cpu}": f"{cpu % 2},{cpu % 2 + 2}\n" for cpu in range(4)}

    def read(path: object) -> str:
        return next((text for name, text in files.items() if f"/{name}" in str(path)), "")

    monkeypatch.setattr(machine, "_read", read)
    assert machine.physical_cores() == 2
    files["cgroup/cpu.max"] = "100000 100000"
    assert machine.physical_cores() == 1
    assert policy.choose_threads(0)[0] == 1
    assert policy.choose_threads(5)[0] == 5
    with pytest.raises(InvalidRequestError, match="threads"):
        policy.choose_threads(-1)


def test_a_containers_memory_limit_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    files = {"meminfo": "MemTotal: 4000 kB\nMemAvailable:    3000 kB\n"}
    monkeypatch.setattr(machine, "_read", lambda path: files.get(path.name, ""))
    assert machine.available_memory() == 3000 * 1024
    files |= {"memory.max": "2000000\n", "memory.current": "500000\n"}
    assert machine.available_memory() == 1500000


def test_a_device_that_is_not_there_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    for driver in (False, True):
        monkeypatch.setattr(policy, "may_have_cuda", lambda driver=driver: driver)
        assert policy.choose_device("auto")[0] == CPU
    assert policy.choose_device("cpu")[0] == CPU
    with pytest.raises(InvalidRequestError, match="cuda"):
        policy.choose_device("cuda")
