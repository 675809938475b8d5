"""Perplexity of the embedded model on fixed texts, beside llama.cpp on the same file (make bench installs it)."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from fathom.checkpoints import open_checkpoint
from fathom.engine.native_runner import NativeRunner
from fathom.engine.runner import SequenceStep
from fathom.text import Tokenizer

llama_cpp = pytest.importorskip("llama_cpp", reason="the peer is not installed: see requirements/bench.txt")

ROOT = Path(__file__).parents[2]
TEXTS = ("LICENSE", "fathom/app/static/vendor/dompurify/LICENSE", "tests/app/vendor/LICENSE")
CHUNK, CHUNKS = 512, 6


def mean_loss(logits_TV: torch.Tensor, ids: list[int]) -> float:
    return float(torch.nn.functional.cross_entropy(logits_TV[:-1].float(), torch.tensor(ids[1:])))


def native_losses(path: Path, chunks: list[list[int]]) -> list[float]:
    runner = NativeRunner(open_checkpoint(path), n_pages=CHUNK // 64, max_context=CHUNK, threads=1)
    pages = list(range(CHUNK // 64))
    return [mean_loss(torch.from_numpy(runner.step([SequenceStep(ids, 0, pages, 0)])), ids) for ids in chunks]


def llama_losses(path: Path, chunks: list[list[int]]) -> list[float]:
    lib: Any = llama_cpp
    silence = lib.llama_log_callback(lambda *_: None)
    lib.llama_log_set(silence, None)
    lib.llama_backend_init()
    model = lib.llama_model_load_from_file(str(path).encode(), lib.llama_model_default_params())
    params = lib.llama_context_default_params()
    params.n_ctx = params.n_batch = params.n_ubatch = CHUNK
    params.n_threads = params.n_threads_batch = 1
    context = lib.llama_init_from_model(model, params)
    vocabulary = lib.llama_vocab_n_tokens(lib.llama_model_get_vocab(model))
    batch, losses = lib.llama_batch_init(CHUNK, 0, 1), []
    for ids in chunks:
        lib.llama_memory_clear(lib.llama_get_memory(context), True)
        batch.n_tokens = len(ids)
        for i, token in enumerate(ids):
            batch.token[i], batch.pos[i], batch.n_seq_id[i], batch.logits[i], batch.seq_id[i][0] = token, i, 1, True, 0
        assert lib.llama_decode(context, batch) == 0
        logits = np.ctypeslib.as_array(lib.llama_get_logits(context), (len(ids), vocabulary))
        losses.append(mean_loss(torch.from_numpy(logits.copy()), ids))
    lib.llama_free(context)
    lib.llama_model_free(model)
    return losses


@pytest.mark.slow
def test_perplexity_is_llama_cpps(smollm2_gguf) -> None:
    tokenizer = Tokenizer.from_gguf(open_checkpoint(smollm2_gguf).metadata)
    ids = tokenizer.encode("\n\n".join((ROOT / text).read_text() for text in TEXTS))
    chunks = [ids[at : at + CHUNK] for at in range(0, CHUNK * CHUNKS, CHUNK)]
    assert len(chunks[-1]) == CHUNK
    ours, theirs = native_losses(smollm2_gguf, chunks), llama_losses(smollm2_gguf, chunks)
    assert abs(np.exp(np.mean(ours) - np.mean(theirs)) - 1) < 0.005
