"""The released model in the engines that people have: llama.cpp reads its GGUF, transformers its folder."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from fathom.checkpoints import load_model, open_checkpoint
from fathom.checkpoints.export import export
from fathom.checkpoints.gguf_export import export_gguf
from fathom.checkpoints.sources import nano_model
from fathom.engine.loading import read_tokenizer
from fathom.models.cache import NoCache

TEXT = "Once upon a time there was a small ship that wanted to see the sea."
NEW = 24


@pytest.fixture(scope="module")
def nano() -> Path:
    return nano_model()


def exact_logits(path: Path, ids: list[int]) -> torch.Tensor:
    model = load_model(open_checkpoint(path), dtype=torch.float32)
    with torch.inference_mode():
        return model.logits(model(torch.tensor(ids), torch.arange(len(ids)), NoCache(1, len(ids))))


@pytest.mark.slow
@pytest.mark.parametrize("dtype", ["f32", "bf16", "q8_0"])
def test_llama_cpp_writes_the_same_text(nano: Path, tmp_path: Path, dtype: Any) -> None:
    llama_cpp: Any = pytest.importorskip("llama_cpp", reason="the peer is not installed: see requirements/bench.txt")
    file = export_gguf(nano, tmp_path / "nano.gguf", dtype=dtype)
    ids = read_tokenizer(open_checkpoint(file)).encode(TEXT)
    theirs = llama_cpp.Llama(str(file), n_ctx=256, n_threads=1, n_threads_batch=1, verbose=False, logits_all=True)
    assert theirs.tokenize(TEXT.encode(), add_bos=False, special=False) == ids
    written = list(ids)
    for _ in range(NEW):  # greedy, by the float32 model; both must agree wherever its choice is not a near tie
        written.append(int(exact_logits(file, written)[-1].argmax()))
    expected = exact_logits(file, written)
    theirs.eval(written)
    found = torch.from_numpy(np.array(theirs.scores[: len(written)]))
    assert float((found - expected).norm() / expected.norm()) < (0.002 if dtype == "f32" else 0.03)
    best = expected.topk(2, dim=-1).values
    clear = best[:, 0] - best[:, 1] > 0.1 * expected.std()
    assert clear.sum() > len(written) // 2
    assert torch.equal(found.argmax(dim=-1)[clear], expected.argmax(dim=-1)[clear])


@pytest.mark.slow
def test_transformers_computes_the_same_logits(nano: Path, tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM

    folder = tmp_path / "nano"
    export(nano, folder, dtype="f32")
    ids = read_tokenizer(open_checkpoint(nano)).encode(TEXT)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    with torch.inference_mode():
        found = model(torch.tensor([ids])).logits[0]
    torch.testing.assert_close(found, exact_logits(nano, ids), atol=2e-3, rtol=2e-3)
