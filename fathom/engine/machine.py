"""What this process may use of the machine: cores, memory, number formats. Linux is read closely, others by default."""

import math
import os
import sys
from pathlib import Path

_CPU = Path("/sys/devices/system/cpu")
_CGROUP = Path("/sys/fs/cgroup")


def physical_cores() -> int:
    """Physical cores that this process may run on: hyper-threads count once, a container's quota is respected."""
    allowed = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else range(os.cpu_count() or 1)
    cores = {_siblings(cpu) for cpu in allowed}
    return max(1, min(len(cores), _cpu_quota() or len(cores)))


def available_memory() -> int:
    """Bytes that can be allocated without swapping, within a container's limit; half of all memory where unknown."""
    room = _meminfo("MemAvailable")
    if room is None:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 2
    limit, used = _number(_CGROUP / "memory.max"), _number(_CGROUP / "memory.current")
    return room if limit is None or used is None else max(0, min(room, limit - used))


def cpu_flags() -> frozenset[str]:
    """Instruction sets of the CPU as Linux names them; empty where unknown."""
    text = _read(Path("/proc/cpuinfo"))
    lines = (line for line in text.splitlines() if line.startswith(("flags", "Features")))
    return frozenset(next(lines, "").partition(":")[2].split())


def _siblings(cpu: int) -> str:
    return _read(_CPU / f"cpu{cpu}" / "topology" / "thread_siblings_list").strip() or str(cpu)


def _cpu_quota() -> int | None:
    quota, _, period = _read(_CGROUP / "cpu.max").partition(" ")
    return math.ceil(int(quota) / int(period)) if quota.isdecimal() else None


def _meminfo(name: str) -> int | None:
    for line in _read(Path("/proc/meminfo")).splitlines():
        if line.startswith(f"{name}:"):
            return int(line.split()[1]) * 1024
    return None


def _number(path: Path) -> int | None:
    text = _read(path).strip()
    return int(text) if text.isdecimal() else None


def _read(path: Path) -> str:
    try:
        return path.read_text()
    except OSError:
        return ""


def may_have_cuda() -> bool:
    """False where a CUDA (or ROCm) driver is certainly missing, which is cheaper to know than asking PyTorch."""
    if sys.platform != "linux":
        return True
    return any(Path(node).exists() for node in ("/dev/nvidiactl", "/proc/driver/nvidia", "/dev/dxg", "/dev/kfd"))
