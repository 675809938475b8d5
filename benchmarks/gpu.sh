#!/usr/bin/env bash
# Everything about the CUDA path in one run: are the kernels right, and how near do they come to the card's limits?
#   benchmarks/gpu.sh [PYTHON]      default: .venv/bin/python after `make dev`; needs torch with CUDA and triton
set -euo pipefail
cd "$(dirname "$0")/.."
python=${1:-.venv/bin/python}
export PYTHONPATH=$PWD
nvidia-smi --query-gpu=name,driver_version,clocks.max.mem,power.limit --format=csv
"$python" -m pytest -q tests/kernels/triton tests/engine/test_torch_runner.py
"$python" benchmarks/gpu.py
