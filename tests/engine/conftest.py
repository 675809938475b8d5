"""Mock runner, byte tokenizer and tiny models for the engine's tests."""

import hashlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import pytest
import torch

from fathom.engine import Engine, SequenceStep
from fathom.engine.stats import EngineLimits
from fathom.models.config import ModelConfig
from fathom.models.transformer import Transformer
from fathom.text import Answer, PlainParser, Prompt, Thought

EOS, THINK_END, VOCABULARY = 256, 257, 260


class ByteTokenizer:
    """One token a byte, an end token and an end-of-thought token."""

    vocab_size = VOCABULARY
    stop_ids = frozenset({EOS})
    bos_id = None
    add_bos = False

    def encode(self, text: str) -> list[int]:
        return list(text.encode())

    def decode(self, ids: Sequence[int]) -> str:
        return b"".join(map(self.token_bytes, ids)).decode(errors="replace")

    def token_bytes(self, id: int) -> bytes:
        return bytes([id]) if id < 256 else b""

    def id_of(self, token: str) -> int | None:
        return THINK_END if token == "</think>" else None


class ThoughtParser:
    """Everything before the end-of-thought token is thought."""

    def __init__(self, tokenizer: ByteTokenizer, *, thinking: bool) -> None:
        self.thought_tokens = 0
        self._tokenizer, self._thinking = tokenizer, thinking

    @property
    def place(self) -> str:
        return "thought" if self._thinking else "answer"

    def push(self, id: int) -> list[Any]:
        if id == THINK_END:
            self._thinking = False
            return []
        self.thought_tokens += self._thinking
        text = self._tokenizer.token_bytes(id).decode(errors="replace")
        return [Thought(text) if self._thinking else Answer(text)]

    def finish(self) -> list[Any]:
        return []


class ByteTemplate:
    name, thinks = "bytes", True

    def __init__(self) -> None:
        self.tokenizer = ByteTokenizer()

    def render(self, messages: Sequence[Any], *, tools: Sequence[Any] = (), thinking: bool = False) -> Prompt:
        text = "".join(message.content for message in messages)
        return Prompt(tuple(text.encode()), text, "thought" if thinking else "answer")

    def parser(self, prompt: Prompt) -> ThoughtParser:
        return ThoughtParser(self.tokenizer, thinking=prompt.channel == "thought")


Script = Callable[[Sequence[int]], int]


def hashed(context: Sequence[int]) -> int:
    """A next token that depends on every token before it; never the end token."""
    return hashlib.blake2b(bytes(str(list(context)), "ascii")).digest()[0]


class MockRunner:
    """Keeps the tokens themselves in its pages and decides from what it reads back there.

    So whatever the scheduler gets wrong (a page shared too early, lost, or given to two) changes the next token.
    """

    name = "mock"
    bytes_per_page = 1

    def __init__(
        self, script: Script = hashed, *, n_pages: int = 64, page_tokens: int = 64, max_context: int = 4096
    ) -> None:
        self.script = script
        self.n_pages, self.page_tokens, self.max_context = n_pages, page_tokens, max_context
        self.vocab_size = VOCABULARY
        self.pages = [[-1] * page_tokens for _ in range(n_pages)]
        self.steps: list[list[int]] = []
        self.before_step: Callable[[Sequence[SequenceStep]], None] = lambda _: None
        self.closed = False

    def step(self, sequences: Sequence[SequenceStep]) -> torch.Tensor:
        self.before_step(sequences)
        self.steps.append([len(one.tokens) for one in sequences])
        for one in sequences:
            for position, token in enumerate(one.tokens, one.start):
                self.pages[one.pages[position // self.page_tokens]][position % self.page_tokens] = token
        chosen = []
        for one in sequences:
            end = one.start + len(one.tokens)
            context = [self.pages[one.pages[p // self.page_tokens]][p % self.page_tokens] for p in range(end)]
            chosen += [self._next(context[: one.start + i + 1]) for i in range(one.logits_from, len(one.tokens))]
        logits = torch.zeros(len(chosen), self.vocab_size)
        logits[torch.arange(len(chosen)), torch.tensor(chosen, dtype=torch.long)] = 10.0
        return logits

    def _next(self, context: Sequence[int]) -> int:
        try:
            return self.script(context)
        except IndexError:  # a draft may run past the end of what a script says
            return 0

    def set_adapter(self, number: int, adapter: Any) -> None:
        raise AssertionError("the mock has no weights")

    def drop_adapter(self, number: int) -> None:
        raise AssertionError("the mock has no weights")

    def close(self) -> None:
        self.closed = True


def expected(prompt: Sequence[int], count: int, script: Script = hashed) -> tuple[int, ...]:
    """What the mock model generates greedily, without any engine."""
    tokens = list(prompt)
    for _ in range(count):
        tokens.append(script(tokens))
    return tuple(tokens[len(prompt) :])


@pytest.fixture(scope="session")
def mock() -> Any:
    """The mock's parts: MockRunner, expected."""

    class Parts:
        Runner = MockRunner
        tokenizer = ByteTokenizer
        eos = EOS
        think_end = THINK_END

    Parts.expected = staticmethod(expected)
    Parts.hashed = staticmethod(hashed)
    Parts.plain_parser = PlainParser
    return Parts


@pytest.fixture
def make_engine() -> Iterator[Callable[..., Engine]]:
    """Engines on any runner, closed at the end; every page must be free by then."""
    engines: list[Engine] = []

    def make(runner: Any = None, **limits: int) -> Engine:
        bounds = EngineLimits(**limits)
        template = ByteTemplate()
        engine = Engine(runner or MockRunner(), template.tokenizer, template, model_name="mock", limits=bounds)  # type: ignore[arg-type]
        engines.append(engine)
        return engine

    yield make
    for engine in engines:
        engine.close()
        assert engine.stats().load.pages_held == 0


ARCHITECTURES = ("llama", "qwen2", "deepseek_v2", "deepseek_v3")


@pytest.fixture(scope="session")
def tiny_models() -> dict[str, Transformer]:
    """One small random model of each architecture, in float32."""
    return {name: _tiny(name) for name in ARCHITECTURES}


def _tiny(architecture: str) -> Transformer:
    common = {
        "model_type": architecture,
        "vocab_size": VOCABULARY,
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "max_position_embeddings": 512,
        "rms_norm_eps": 1e-6,
        "rope_theta": 10000.0,
        "initializer_range": 0.3,
        "tie_word_embeddings": False,
        "hidden_act": "silu",
    }
    latent = {
        "num_key_value_heads": 4,
        "kv_lora_rank": 16,
        "q_lora_rank": 24,
        "qk_nope_head_dim": 8,
        "qk_rope_head_dim": 8,
        "v_head_dim": 8,
        "moe_intermediate_size": 16,
        "n_routed_experts": 8,
        "n_shared_experts": 1,
        "num_experts_per_tok": 2,
        "first_k_dense_replace": 1,
        "moe_layer_freq": 1,
        "n_group": 2,
        "topk_group": 1,
    }
    routing = {
        "deepseek_v2": {
            "scoring_func": "softmax",
            "topk_method": "group_limited_greedy",
            "norm_topk_prob": False,
            "routed_scaling_factor": 1.0,
        },
        "deepseek_v3": {
            "scoring_func": "sigmoid",
            "topk_method": "noaux_tc",
            "norm_topk_prob": True,
            "routed_scaling_factor": 2.5,
        },
    }
    own = {**latent, **routing[architecture]} if architecture.startswith("deepseek") else {"num_key_value_heads": 2}
    model = Transformer(ModelConfig.from_hf({**common, **own}))
    model.initialise(torch.Generator().manual_seed(7))
    return model.eval()
