"""Triton's kernels run on a GPU where one is, and otherwise in Triton's own interpreter on the CPU."""

import os

import pytest
import torch

if not torch.cuda.is_available():
    os.environ["TRITON_INTERPRET"] = "1"  # read when a kernel is defined, so before anything imports one


@pytest.fixture
def device() -> str:
    return "cuda" if torch.cuda.is_available() else "cpu"
