"""From a reference to answers, on the default model."""

import logging
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch

import fathom
from fathom.checkpoints import load_model, open_checkpoint
from fathom.engine.errors import InvalidRequestError
from fathom.engine.loading import load, name_of, read_template
from fathom.engine.native_runner import NativeRunner
from fathom.models.cache import ContiguousCache
from fathom.text import Message, TemplateError, Tokenizer

QUESTION = "What is the capital of France?"
NEW = 48


def test_the_default_model_answers_in_pytorch_and_says_what_was_chosen(
    smollm2_gguf: Path, caplog: pytest.LogCaptureFixture
) -> None:
    stages: list[str] = []
    with caplog.at_level(logging.INFO, "fathom.engine"):
        engine = load(
            smollm2_gguf,
            runner="torch",
            dtype="float32",
            threads=2,
            max_context=1024,
            cache_bytes=2**27,
            progress=lambda stage, _: stages.append(stage),
        )
    with engine:
        completion = engine.generate(QUESTION, temperature=0.0, max_tokens=20)
        assert completion.content == "The capital of France is Paris."
        assert completion.finished.reason == "stop"
        policy = engine.stats().policy
        assert policy["runner"] == "torch cpu float32 (asked for)"
        assert policy["threads"] == "2 (asked for)"
        assert all(f"{name}: {choice}" in caplog.text for name, choice in policy.items())
        assert "loading the weights" in stages
        assert engine.max_tokens == 1024
        assert engine.config is not None
        assert engine.config.num_hidden_layers == 30


def test_wishes_that_contradict_each_other_are_refused(smollm2_gguf: Path) -> None:
    with pytest.raises(InvalidRequestError, match="native runner was asked for"):
        load(smollm2_gguf, runner="native", dtype="float32")
    with pytest.raises(InvalidRequestError, match="max_context"):
        load(smollm2_gguf, runner="torch", max_context=10**6)


def test_without_native_kernels_pytorch_runs_and_the_reason_is_told(
    smollm2_gguf: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(NativeRunner, "supports", staticmethod(lambda _: "no compiler here"))
    with fathom.load(str(smollm2_gguf), max_context=256, cache_bytes=2**25) as engine:
        assert engine.stats().policy["runner"].endswith("(no compiler here)")
        assert engine.runner.name.startswith("torch")


def test_models_are_called_by_their_reference_or_file(tmp_path: Path) -> None:
    file = tmp_path / "Some-Model.Q4_1.gguf"
    file.touch()
    assert name_of("smollm2:135m") == "smollm2:135m"
    assert name_of("org/name") == "org/name"
    assert name_of(file) == "Some-Model.Q4_1"


@pytest.mark.slow
def test_smollm2_gives_the_same_tokens_alone_together_chunked_cached_and_preempted(smollm2_gguf: Path) -> None:
    checkpoint = open_checkpoint(smollm2_gguf)
    model = load_model(checkpoint, dtype=torch.float32)
    with load(smollm2_gguf, runner="torch", dtype="float32", max_context=512, cache_bytes=2**29) as engine:
        prompts = [
            engine.request(f"Tell me about the number {number}. " * (1 + number % 5)).prompt.ids for number in range(6)
        ]
        alone = [_generate(engine, ids) for ids in prompts]
        assert alone[:3] == [_contiguous(model, ids) for ids in prompts[:3]]
        assert [_generate(engine, ids) for ids in prompts] == alone
    limits = fathom.engine.EngineLimits(max_step_tokens=48, max_running=8)
    page_bytes = engine.runner.bytes_per_page
    with (
        load(
            smollm2_gguf, runner="torch", dtype="float32", max_context=512, cache_bytes=5 * page_bytes, limits=limits
        ) as engine,
        ThreadPoolExecutor(8) as pool,
    ):
        assert list(pool.map(lambda ids: _generate(engine, ids), prompts)) == alone
        assert engine.stats().load.preemptions > 0


def _generate(engine: "fathom.Engine", ids: tuple[int, ...]) -> tuple[int, ...]:
    return engine.generate(prompt=ids, max_tokens=NEW, temperature=0.0, ignore_eos=True).tokens


@torch.no_grad()
def _contiguous(model: torch.nn.Module, prompt: tuple[int, ...]) -> tuple[int, ...]:
    cache = ContiguousCache(model.config, 1, len(prompt) + NEW)  # type: ignore[arg-type]
    tokens, new = list(prompt), list(prompt)
    for _ in range(NEW):
        positions_N = cache.extend([len(new)])
        new = [int(model.logits(model(torch.tensor(new), positions_N, cache)[-1:]).argmax())]  # type: ignore[operator]
        tokens += new
    return tuple(tokens[len(prompt) :])


BASE_MODEL = {
    "tokenizer.ggml.model": "gpt2",
    "tokenizer.ggml.pre": "gpt-2",
    "tokenizer.ggml.tokens": ["a"],
    "tokenizer.ggml.merges": [],
}


def test_a_base_model_refuses_conversations_and_says_why() -> None:
    template = read_template(Tokenizer.from_gguf(BASE_MODEL))
    assert not template.thinks
    with pytest.raises(TemplateError, match="may be a base model"):
        template.render([Message("user", "Hi")])


def test_a_dialect_that_does_not_exist_is_refused_with_those_that_do() -> None:
    with pytest.raises(InvalidRequestError, match="chatml"):
        read_template(Tokenizer.from_gguf(BASE_MODEL), "chatmll")


@pytest.mark.parametrize("more", [[], ["--think"]])
def test_an_answer_from_native_kernels_imports_no_torch(more):
    """Nor what a server needs: a cold process is to answer at once."""
    code = (
        "import sys\n"
        "from fathom.cli.main import main\n"
        f"code = main(['run', 'Say hello.', '--max-tokens', '2', '--threads', '1', '--device', 'cpu', *{more}])\n"
        "heavy = {'torch', 'sqlalchemy', 'httpx', 'pydantic', 'transformers', 'jinja2'} & set(sys.modules)\n"
        "sys.exit(code or ', '.join(sorted(heavy)) or 0)\n"
    )
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=False)
    assert ended.returncode == 0, ended.stderr
