"""The engines that `compare.py` sets side by side, each behind the same three questions.

    prefill(tokens)                  seconds until the first token after a prompt of that many tokens
    decode(sequences, new, context)  seconds for `new` greedy tokens in each sequence, prefill not counted
    logits(ids, file)                saves the logits after every one of these tokens, float32, as .npy

Prompts are random token ids, fresh for each call, so that no prefix cache helps anybody.
"""

import random
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

MANY, TOKENS_OF_MANY, SINGLE_TOKENS = 32, 192, 768  # what llama.cpp's contexts have room for
FIRST_ORDINARY_ID = 100  # below lie control tokens in every vocabulary used here


class Contender(Protocol):
    """One engine with one model loaded."""

    def prefill(self, tokens: int) -> float: ...
    def decode(self, sequences: int, new: int, context: int) -> float: ...
    def logits(self, ids: list[int], file: str) -> None: ...


def random_prompts(sequences: int, tokens: int, vocab_size: int) -> list[list[int]]:
    return [[random.randrange(FIRST_ORDINARY_ID, vocab_size) for _ in range(tokens)] for _ in range(sequences)]


class Fathom:
    """Through the whole engine: its thread, scheduler, sampler and parser, as a server would use it."""

    def __init__(self, model: Path, threads: int, runner: str = "auto") -> None:
        import fathom
        from fathom.engine import SamplingParams

        self.params = SamplingParams
        self.engine = fathom.load(str(model), threads=threads, runner=runner)

    def run(self, prompts: list[list[int]], new: int) -> tuple[float, float]:
        """Seconds from the first submission to (every first token, every last token)."""
        import threading

        firsts, ends, done = [0.0] * len(prompts), [0.0] * len(prompts), threading.Semaphore(0)

        def listener(index: int) -> Any:
            def on_event(event: object) -> None:
                now = time.perf_counter()
                firsts[index] = firsts[index] or now
                if type(event).__name__ == "Finished":
                    ends[index] = now
                    done.release()

            return on_event

        params = self.params(max_tokens=new, temperature=0.0, ignore_eos=True)
        start = time.perf_counter()
        for index, prompt in enumerate(prompts):
            self.engine.submit(self.engine.request(prompt=prompt, params=params), listener(index))
        for _ in prompts:
            done.acquire()
        return max(firsts) - start, max(ends) - start

    def prefill(self, tokens: int) -> float:
        return self.run(random_prompts(1, tokens, self.engine.config.vocab_size), 1)[1]

    def decode(self, sequences: int, new: int, context: int) -> float:
        prompts = random_prompts(sequences, context, self.engine.config.vocab_size)
        warm, whole = self.run(prompts, new)
        return whole - warm

    def logits(self, ids: list[int], file: str) -> None:
        """Straight from the runner; the engine is idle meanwhile."""
        import numpy as np

        from fathom.engine import SequenceStep

        pages = range(-(-len(ids) // self.engine.runner.page_tokens))
        np.save(file, np.asarray(self.engine.runner.step([SequenceStep(ids, 0, pages, 0)])))


class LlamaCpp:
    """llama.cpp through its C interface (package `llama-cpp-python`): it samples in C.

    One sequence and many have contexts of their own, each no larger than what is asked of it, because it fills the
    memory of a context at once.
    """

    def __init__(self, model: Path, threads: int) -> None:
        import llama_cpp

        self.lib = lib = llama_cpp
        self.silence = lib.llama_log_callback(lambda *_: None)  # kept: C holds no reference
        lib.llama_log_set(self.silence, None)
        lib.llama_backend_init()
        self.model = lib.llama_model_load_from_file(str(model).encode(), lib.llama_model_default_params())
        self.vocab_size = lib.llama_vocab_n_tokens(lib.llama_model_get_vocab(self.model))
        self.threads = threads
        self.contexts: dict[int, Any] = {}
        self.use(1)
        self.sampler = lib.llama_sampler_chain_init(lib.llama_sampler_chain_default_params())
        lib.llama_sampler_chain_add(self.sampler, lib.llama_sampler_init_greedy())
        self.batch = lib.llama_batch_init(512, 0, 1)

    def use(self, sequences: int) -> None:
        """Take the context for one sequence, or for many."""
        n_sequences, n_tokens = (1, SINGLE_TOKENS) if sequences == 1 else (MANY, MANY * TOKENS_OF_MANY)
        if n_sequences not in self.contexts:
            params = self.lib.llama_context_default_params()
            params.n_ctx, params.n_seq_max = n_tokens, n_sequences
            params.n_batch = params.n_ubatch = 512
            params.n_threads = params.n_threads_batch = self.threads
            params.kv_unified = False
            self.contexts[n_sequences] = self.lib.llama_init_from_model(self.model, params)
        self.context = self.contexts[n_sequences]

    def logits(self, ids: list[int], file: str) -> None:
        import numpy as np

        self.use(1)
        self.lib.llama_memory_clear(self.lib.llama_get_memory(self.context), True)
        self.feed([(token, position, 0, True) for position, token in enumerate(ids)])
        np.save(file, np.ctypeslib.as_array(self.lib.llama_get_logits(self.context), (len(ids), self.vocab_size)))

    def feed(self, rows: list[tuple[int, int, int, bool]]) -> None:
        """Rows of (token, position, sequence, wants logits)."""
        batch = self.batch
        batch.n_tokens = len(rows)
        for i, (token, position, sequence, wants) in enumerate(rows):
            batch.token[i], batch.pos[i], batch.n_seq_id[i], batch.logits[i] = token, position, 1, wants
            batch.seq_id[i][0] = sequence
        if self.lib.llama_decode(self.context, batch):
            raise RuntimeError("llama_decode failed")

    def sample(self, row: int) -> int:
        return int(self.lib.llama_sampler_sample(self.sampler, self.context, row))

    def start(self, prompts: list[list[int]]) -> list[int]:
        self.use(len(prompts))
        self.lib.llama_memory_clear(self.lib.llama_get_memory(self.context), True)
        firsts = []
        for sequence, prompt in enumerate(prompts):
            for at in range(0, len(prompt), 512):
                chunk = prompt[at : at + 512]
                last = len(prompt) - 1 - at
                self.feed([(token, at + i, sequence, i == last) for i, token in enumerate(chunk)])
            firsts.append(self.sample(-1))
        return firsts

    def prefill(self, tokens: int) -> float:
        prompts = random_prompts(1, tokens, self.vocab_size)
        start = time.perf_counter()
        self.start(prompts)
        return time.perf_counter() - start

    def decode(self, sequences: int, new: int, context: int) -> float:
        tokens = self.start(random_prompts(sequences, context, self.vocab_size))
        start = time.perf_counter()
        for step in range(new - 1):
            self.feed([(token, context + step, sequence, True) for sequence, token in enumerate(tokens)])
            tokens = [self.sample(row) for row in range(sequences)]
        return time.perf_counter() - start


class Transformers:
    """transformers' own `generate`, from the same file, dequantised as it does by itself."""

    def __init__(self, model: Path, threads: int, dtype: str, cache: str = "dynamic") -> None:
        import torch
        from transformers import AutoModelForCausalLM

        torch.set_num_threads(threads)
        self.torch, self.cache = torch, cache
        self.model = AutoModelForCausalLM.from_pretrained(
            str(model.parent), gguf_file=model.name, dtype=getattr(torch, dtype)
        )
        self.model.eval()

    def generate(self, prompts: list[list[int]], new: int) -> float:
        ids = self.torch.tensor(prompts)
        options = {} if self.cache == "dynamic" else {"cache_implementation": self.cache}
        start = time.perf_counter()
        with self.torch.inference_mode():
            self.model.generate(
                ids,
                attention_mask=self.torch.ones_like(ids),
                max_new_tokens=new,
                min_new_tokens=new,
                do_sample=False,
                pad_token_id=0,
                disable_compile=True,
                **options,
            )
        return time.perf_counter() - start

    def logits(self, ids: list[int], file: str) -> None:
        import numpy as np

        with self.torch.inference_mode():
            np.save(file, self.model(self.torch.tensor([ids])).logits[0].float().numpy())

    def prefill(self, tokens: int) -> float:
        return self.generate(random_prompts(1, tokens, self.model.config.vocab_size), 1)

    def decode(self, sequences: int, new: int, context: int) -> float:
        prompts = random_prompts(sequences, context, self.model.config.vocab_size)
        return self.generate(prompts, new) - self.generate(prompts, 1)


CONTENDERS: dict[str, tuple[Callable[[Path, int], Contender], str]] = {  # how to make one, and the format of its file
    "fathom": (Fathom, "own"),
    "fathom q8_0": (Fathom, "q8_0"),
    "fathom (torch)": (lambda model, threads: Fathom(model, threads, "torch"), "own"),
    "llama.cpp": (LlamaCpp, "own"),
    "llama.cpp q8_0": (LlamaCpp, "q8_0"),
    "llama.cpp bf16": (LlamaCpp, "bf16"),
    "transformers float32": (lambda model, threads: Transformers(model, threads, "float32"), "own"),
    "transformers bfloat16": (lambda model, threads: Transformers(model, threads, "bfloat16"), "own"),
    "transformers bfloat16, static cache": (
        lambda model, threads: Transformers(model, threads, "bfloat16", "static"),
        "own",
    ),
}
