"""A minute of everything at once on real engines, answers compared with the same asked alone (benchmarks/soak.py)."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "soak.py"


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="watches memory through Linux's /proc")
def test_nothing_is_lost_or_crossed_under_load(smollm2_gguf) -> None:
    command = [sys.executable, str(SCRIPT), "--minutes", "1", "--seed", str(os.getpid())]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stdout[-4000:] + result.stderr[-4000:]
    assert "compared" in result.stdout
