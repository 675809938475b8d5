"""The native step against the readable model: tiny random models of every kind, and the default model."""

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest
import torch
from gguf import GGMLQuantizationType
from gguf.quants import dequantize, quantize
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fathom.checkpoints import StoredTensor, TensorInfo, load_model, open_checkpoint
from fathom.checkpoints.adapters import read_adapter, write_adapter
from fathom.checkpoints.tensor_names import parts_of
from fathom.engine import Engine
from fathom.engine.errors import InvalidRequestError
from fathom.engine.native_runner import NativeRunner as NumpyRunner
from fathom.engine.runner import Continuation, SequenceStep
from fathom.engine.speculation import StepBudget
from fathom.kernels.cpu import library
from fathom.kernels.cpu.build import CompilerError
from fathom.kernels.cpu.library import NativeError
from fathom.models import ModelConfig, RopeScaling
from fathom.models.cache import NoCache
from fathom.models.lora import TARGETS, Adapter, fresh, merge
from fathom.models.transformer import Transformer

try:
    library.load()
except CompilerError as error:
    pytest.skip(str(error), allow_module_level=True)


class NativeRunner(NumpyRunner):
    """With its logits as tensors."""

    def step(self, sequences):
        return torch.from_numpy(super().step(sequences))


@dataclass
class MemoryCheckpoint:
    """A random model whose matrices are stored in `types`, one after another in turn."""

    config: ModelConfig
    types: tuple[str, ...] = ("F32",)
    name: str = "random"
    path: Path = Path("random")
    metadata: dict[str, object] = field(default_factory=dict)
    licence: str | None = None
    files: dict[str, Path] = field(default_factory=dict)
    state: dict[str, StoredTensor] = field(default_factory=dict)

    def __post_init__(self) -> None:
        torch.manual_seed(0)
        for i, (name, tensor) in enumerate(Transformer(self.config).state_dict().items()):
            values = tensor.normal_(0, 0.3 if "embed" in name else 0.12)
            if tensor.ndim == 1:
                values = 1 + values if "norm" in name else values * 4
            parts = parts_of(name, tuple(tensor.shape))
            kind = self.types[i % len(self.types)] if tensor.ndim > 1 else "F32"
            for part, each in zip(parts, values if len(parts) > 1 else [values], strict=True):
                self.state[part] = stored(each.numpy(), kind)

    def names(self) -> list[str]:
        return list(self.state)

    def info(self, name: str) -> TensorInfo:
        stored = self.state[name]
        return TensorInfo(stored.shape, stored.type, stored.data.nbytes)

    def stored(self, name: str) -> StoredTensor:
        return self.state[name]

    def tensor(self, name: str, dtype: torch.dtype | None = None) -> torch.Tensor:
        stored = self.state[name]
        values = dequantize(stored.data, GGMLQuantizationType[stored.type]).reshape(stored.shape)
        return torch.from_numpy(np.array(values)).to(dtype or torch.float32)


def stored(values: np.ndarray, kind: str) -> StoredTensor:
    rows = values.reshape(-1, values.shape[-1])
    data = quantize(rows, GGMLQuantizationType[kind]).view(np.uint8).reshape(len(rows), -1)
    return StoredTensor(kind, values.shape, data)


def config(**changes: object) -> ModelConfig:
    base: dict[str, object] = {
        "architecture": "llama",
        "vocab_size": 317,
        "hidden_size": 96,
        "intermediate_size": 160,
        "num_hidden_layers": 3,
        "num_attention_heads": 6,
        "num_key_value_heads": 2,
        "head_dim": 16,
        "max_position_embeddings": 512,
        "tie_word_embeddings": True,
    }
    return ModelConfig(**(base | changes))


def deepseek(architecture: str, **changes: object) -> ModelConfig:
    v3 = architecture == "deepseek_v3"
    base: dict[str, object] = {
        "architecture": architecture,
        "num_attention_heads": 4,
        "num_key_value_heads": 4,
        "head_dim": 0,
        "kv_lora_rank": 64,
        "qk_nope_head_dim": 48,
        "qk_rope_head_dim": 32,
        "v_head_dim": 16,
        "moe_intermediate_size": 64,
        "n_routed_experts": 16,
        "n_shared_experts": 2,
        "num_experts_per_tok": 3,
        "first_k_dense_replace": 1,
        "topk_method": "noaux_tc" if v3 else "greedy",
        "scoring_func": "sigmoid" if v3 else "softmax",
        "norm_topk_prob": v3,
        "routed_scaling_factor": 2.5 if v3 else 1.0,
        "tie_word_embeddings": False,
        "rope_scaling": RopeScaling("yarn", 40.0, 64, mscale=0.707, mscale_all_dim=0.707),
    }
    return config(**(base | changes))


def reference(model: Transformer, ids: list[int]) -> torch.Tensor:
    with torch.inference_mode():
        hidden = model(torch.tensor(ids), torch.arange(len(ids)), NoCache(1, len(ids)))
        return model.logits(hidden)


def tokens(count: int, vocabulary: int = 317, seed: int = 0) -> list[int]:
    return np.random.default_rng(seed).integers(0, vocabulary, count).tolist()


def errors(got: torch.Tensor, expected: torch.Tensor) -> torch.Tensor:
    """Relative distance of every row. A router's near tie may fall the other way, so a few rows can be far off."""
    return (got - expected).norm(dim=-1) / expected.norm(dim=-1)


MODELS = {
    "llama": config(),
    "one head": config(num_attention_heads=1, num_key_value_heads=1, head_dim=64, hidden_size=32),
    "wide heads": config(num_attention_heads=2, num_key_value_heads=1, head_dim=112),
    "many queries a head": config(num_attention_heads=40, num_key_value_heads=1),
    "odd sizes": config(
        hidden_size=50, intermediate_size=77, num_attention_heads=3, num_key_value_heads=3, head_dim=48
    ),
    "llama 3 rotary": config(
        rope_scaling=RopeScaling(
            "llama3", 8.0, original_max_position_embeddings=64, low_freq_factor=1.0, high_freq_factor=4.0
        )
    ),
    "yarn": config(rope_scaling=RopeScaling("yarn", 4.0, original_max_position_embeddings=128)),
    "llama with biases": config(attention_bias=True),
    "qwen2": config(architecture="qwen2", tie_word_embeddings=False, attention_bias=True),
    "deepseek v2 lite": deepseek("deepseek_v2"),
    "deepseek v2": deepseek("deepseek_v2", q_lora_rank=48, topk_method="group_limited_greedy", n_group=4, topk_group=2),
    "deepseek v3": deepseek("deepseek_v3", q_lora_rank=48, n_group=4, topk_group=2),
    "deepseek v3 of many heads": deepseek("deepseek_v3", num_attention_heads=40, num_key_value_heads=40),
    "deepseek v3 of odd sizes": deepseek("deepseek_v3", hidden_size=50, moe_intermediate_size=23, kv_lora_rank=80),
}


@pytest.mark.parametrize("name", MODELS)
def test_float32_weights_differ_only_by_the_bfloat16_cache(name) -> None:
    checkpoint = MemoryCheckpoint(MODELS[name])
    runner = NativeRunner(checkpoint, n_pages=8, threads=2)
    ids = tokens(150)
    got = runner.step([SequenceStep(ids, 0, [5, 0, 3], 0)])
    far = errors(got, reference(load_model(checkpoint, dtype=torch.float32), ids))
    assert far.quantile(0.5) < 0.01
    assert far.quantile(0.95) < 0.02


MIXED = ("Q4_0", "Q8_0", "Q5_1", "F16", "BF16", "Q5_0", "Q4_1")
SHAPES = {"llama": config(), "deepseek v3": deepseek("deepseek_v3", q_lora_rank=64)}


@pytest.mark.parametrize("types", [("Q4_1",), ("Q8_0",), ("BF16",), ("F16",), MIXED], ids="-".join)
@pytest.mark.parametrize("name", SHAPES)
def test_quantised_weights_run_as_stored(name, types) -> None:
    checkpoint = MemoryCheckpoint(SHAPES[name], types)
    runner = NativeRunner(checkpoint, n_pages=8, threads=2)
    ids = tokens(130)
    got = runner.step([SequenceStep(ids, 0, [0, 1, 2], 0)])
    far = errors(got, reference(load_model(checkpoint, dtype=torch.float32), ids))
    assert far.quantile(0.5) < 0.05


MIXTURES = {
    "llama": MemoryCheckpoint(config(), ("Q4_1", "Q8_0", "BF16")),
    "deepseek v2": MemoryCheckpoint(deepseek("deepseek_v2"), ("Q8_0", "Q4_1")),
    "deepseek v3": MemoryCheckpoint(deepseek("deepseek_v3", q_lora_rank=64, n_group=4, topk_group=2), ("Q4_1", "BF16")),
}


@pytest.fixture(scope="module", params=MIXTURES)
def mixed(request):
    return MIXTURES[request.param]


@pytest.fixture(scope="module")
def mixed_runner(mixed):
    return NativeRunner(mixed, n_pages=40, threads=2)


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_any_mixture_of_steps_gives_the_same_bits(mixed_runner, data) -> None:
    """Sequences cut anywhere and run in any company: every row equals that of its sequence run alone and whole."""
    lengths = data.draw(st.lists(st.integers(1, 270), min_size=1, max_size=6))
    ids = [tokens(length, seed=i) for i, length in enumerate(lengths)]
    alone = [mixed_runner.step([SequenceStep(each, 0, [35, 36, 37, 38, 39], 0)]) for each in ids]
    done = [0] * len(ids)
    while any(at < len(each) for at, each in zip(done, ids, strict=True)):
        parts, rows = [], []
        for i, each in enumerate(ids):
            left = len(each) - done[i]
            count = data.draw(st.sampled_from([0, 1, 1, 2, 7, 64, 65, 300])) if left else 0
            count = min(count, left) or (left if left and not parts and i == len(ids) - 1 else 0)
            if count:
                wanted = data.draw(st.integers(0, count))
                parts.append(SequenceStep(each[done[i] : done[i] + count], done[i], range(i * 5, i * 5 + 5), wanted))
                rows.append(alone[i][done[i] + wanted : done[i] + count])
                done[i] += count
        if parts:
            assert torch.equal(mixed_runner.step(parts), torch.cat(rows))


@pytest.mark.parametrize("threads", [1, 3, 7])
def test_the_number_of_threads_changes_no_bit(mixed, mixed_runner, threads) -> None:
    other = NativeRunner(mixed, n_pages=40, threads=threads)
    step = [SequenceStep(tokens(200), 0, [0, 1, 2, 3], 0), SequenceStep(tokens(70, seed=1), 0, [4, 5], 60)]
    then = [SequenceStep([7], 200, [0, 1, 2, 3], 0), SequenceStep([9], 70, [4, 5], 0)]
    assert torch.equal(other.step(step), mixed_runner.step(step))
    assert torch.equal(other.step(then), mixed_runner.step(then))
    assert torch.equal(other.step(then[:1]), mixed_runner.step(then[:1]))


def test_pages_used_before_leave_no_trace(mixed, mixed_runner) -> None:
    fresh = NativeRunner(mixed, n_pages=4, threads=2)
    mixed_runner.step([SequenceStep(tokens(192, seed=8), 0, [0, 1, 2], 192)])
    step = [SequenceStep(tokens(67, seed=9), 0, [2, 1], 0)]
    assert torch.equal(mixed_runner.step(step), fresh.step(step))


def test_pages_can_be_moved_to_another_runner(mixed, mixed_runner) -> None:
    other = NativeRunner(mixed, n_pages=40, threads=1)
    ids = tokens(150, seed=4)
    mixed_runner.step([SequenceStep(ids, 0, [4, 1, 3], 150)])
    for page, to in zip([4, 1, 3], [0, 5, 39], strict=True):
        data = mixed_runner.read_page(page)
        assert len(data) == mixed_runner.bytes_per_page
        other.write_page(to, data)
        assert other.read_page(to) == data
    assert other.page_format == mixed_runner.page_format
    expected = mixed_runner.step([SequenceStep([7], 150, [4, 1, 3], 0)])
    assert torch.equal(other.step([SequenceStep([7], 150, [0, 5, 39], 0)]), expected)
    for page in (-1, 40):
        with pytest.raises(NativeError, match="does not exist"):
            other.read_page(page)


def test_a_prefix_is_shared(mixed_runner) -> None:
    ids = tokens(128, seed=3)
    mixed_runner.step([SequenceStep(ids, 0, [0, 1], 128)])
    tails = [[1, 2, 3], [4], [5, 6]]
    together = mixed_runner.step([SequenceStep(tail, 128, [0, 1, 10 + i], 0) for i, tail in enumerate(tails)])
    alone = [mixed_runner.step([SequenceStep(ids + tail, 0, [20, 21, 22], 128)]) for tail in tails]
    assert torch.equal(together, torch.cat(alone))


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        ([SequenceStep([317], 0, [0], 0)], "token 317"),
        ([SequenceStep([-1], 0, [0], 0)], "token -1"),
        ([SequenceStep([1], 0, [40], 0)], "page 40"),
        ([SequenceStep([1], 0, [-1], 0)], "page -1"),
        ([SequenceStep([1], 64, [0], 0)], "do not cover"),
        ([SequenceStep([], 0, [0], 0)], "no tokens"),
        ([SequenceStep([1], -1, [0], 0)], "negative"),
        ([SequenceStep([1], 512, range(9), 0)], "longer than the context"),
        ([SequenceStep([1], 0, [0], 2)], "logits_from"),
        ([SequenceStep([1], 0, [3], 0), SequenceStep([1], 0, [3], 0)], "page 3"),
        ([SequenceStep([1], 64, [3, 4], 0), SequenceStep([1], 0, [3], 0)], "page 3"),
        ([SequenceStep([1], 0, [3], 0), SequenceStep([1], 64, [3, 4], 0)], "page 3"),
    ],
)
def test_impossible_steps_are_refused(mixed_runner, parts, message) -> None:
    with pytest.raises(NativeError, match=message):
        mixed_runner._model.step(
            parts, np.zeros((sum(max(0, len(p.tokens) - p.logits_from) for p in parts), 317), np.float32)
        )


def test_no_sequences_no_rows(mixed_runner) -> None:
    assert mixed_runner.step([]).shape == (0, 317)


def test_a_closed_runner_says_so() -> None:
    runner = NativeRunner(MemoryCheckpoint(config()), n_pages=2, threads=1)
    runner.close()
    runner.close()
    with pytest.raises(NativeError, match="closed"):
        runner.step([SequenceStep([1], 0, [0], 0)])


def test_what_cannot_run_gives_its_reason() -> None:
    checkpoint = MemoryCheckpoint(config(head_dim=24))
    assert "head_dim is 24" in NativeRunner.supports(checkpoint)
    with pytest.raises(ValueError, match="head_dim is 24"):
        NativeRunner(checkpoint, n_pages=1)


@pytest.mark.parametrize("name", MIXTURES)
def test_speculation_changes_no_token(name, mock, monkeypatch) -> None:
    """Exactly, for every row has the same bits in any company."""
    monkeypatch.setattr(StepBudget, "worth", property(lambda _: 0.0))
    answers, drafted = {}, 0
    for mode in ("off", "auto"):
        runner = NativeRunner(MIXTURES[name], n_pages=40, max_context=512, threads=2)
        with Engine(runner, mock.tokenizer(), None, model_name=mode, speculation=mode) as engine:
            answers[mode] = [
                engine.generate(
                    prompt=[*range(seed, seed + 9), *range(seed, seed + 9)], max_tokens=120, **options
                ).tokens
                for seed in range(3)
                for options in ({"temperature": 0.0}, {"seed": seed, "temperature": 0.5, "repetition_penalty": 1.05})
            ]
            drafted = engine.stats().load.counts.drafted_tokens
    assert answers["off"] == answers["auto"]
    assert drafted > 100


PREDICTING = {
    "deepseek v3": deepseek("deepseek_v3", q_lora_rank=64, num_nextn_predict_layers=2),
    "odd sizes": deepseek("deepseek_v3", hidden_size=50, num_nextn_predict_layers=1),
}


def predictions(model: Transformer, ids: list[int]) -> list[torch.Tensor]:
    """Logits of every module for the rows whose token is known."""
    rows = len(ids) - len(model.mtp)
    with torch.inference_mode():
        hidden = model(torch.tensor(ids[:rows]), torch.arange(rows), NoCache(1, rows))
        logits = []
        for depth in range(len(model.mtp)):
            seen = torch.tensor(ids[depth + 1 : depth + 1 + rows])
            hidden = model.predict_further(depth, hidden, seen, torch.arange(rows), NoCache(1, rows))
            logits.append(model.logits(hidden))
    return logits


@pytest.mark.parametrize("name", PREDICTING)
def test_prediction_modules_see_what_the_model_shows_them(name) -> None:
    checkpoint = MemoryCheckpoint(PREDICTING[name])
    model = load_model(checkpoint, dtype=torch.float32)
    runner = NativeRunner(checkpoint, n_pages=6, threads=2)
    ids = tokens(120 + runner.max_draft)
    runner.step([SequenceStep([7], 0, [5], 0), SequenceStep(ids[:120], 0, [3, 1], 119)])
    for depth, expected in enumerate(predictions(model, ids)):
        got = np.empty((120, 317), np.float32)
        part = SequenceStep(ids[depth + 1 : depth + 121], 0, [3, 1], 0)
        runner._model.predict(depth, [part], [1], got)
        far = errors(torch.from_numpy(got), expected)
        assert far.quantile(0.5) < 0.02
        assert far[:8].quantile(0.5) < 0.005


def test_drafts_do_not_depend_on_the_batch_or_on_chunks(mixed_drafting) -> None:
    """What the modules guess after a prompt cut anywhere, in company, is what they guess after it alone and whole."""
    runner = mixed_drafting
    ids = [tokens(length, seed=i) for i, length in enumerate([150, 5, 64])]
    alone = []
    for each in ids:
        runner.step([SequenceStep(each, 0, [17, 18, 19], len(each) - 1)])
        alone += runner.draft([Continuation(len(each), [9], 2)])
    assert [len(guess) for guess in alone] == [2, 2, 2]
    pages = [[0, 1, 2], [3], [4, 5]]
    runner.step([SequenceStep(ids[0][:100], 0, pages[0], 100), SequenceStep(ids[1], 0, pages[1], 4)])
    assert runner.draft([Continuation(100, ids[0][100:102], 0), Continuation(5, [9], 2)]) == [[], alone[1]]
    draft = [*ids[2], 1, 2, 3]  # the last three are rejected
    runner.step(
        [
            SequenceStep(draft, 0, pages[2], 63),
            SequenceStep([4], 5, pages[1], 0),
            SequenceStep(ids[0][100:], 100, pages[0], 49),
        ]
    )
    guesses = runner.draft([Continuation(64, [9], 2), Continuation(0, [], 0), Continuation(50, [9], 1)])
    assert guesses == [alone[2], [], alone[0][:1]]


@pytest.fixture(scope="module", params=["Q8_0", "BF16"])
def mixed_drafting(request):
    return NativeRunner(MemoryCheckpoint(PREDICTING["deepseek v3"], (request.param,)), n_pages=20, threads=2)


def test_predictions_begin_where_the_last_step_ended(mixed_drafting) -> None:
    runner, logits = mixed_drafting, np.empty((0, 317), np.float32)
    runner.step([SequenceStep([1, 2], 0, [0], 2)])
    for depth, first, message in (
        (0, 1, "rows that the last step"),
        (0, -1, "rows that the last"),
        (2, 0, "depth is 2"),
    ):
        with pytest.raises(NativeError, match=message):
            runner._model.predict(depth, [SequenceStep([2, 3], 0, [0], 2)], [first], logits)


def adapter_for(checkpoint: MemoryCheckpoint, rank: int, seed: int, targets: tuple[str, ...] = TARGETS) -> Adapter:
    """Random and large enough to change every logit."""
    generator = torch.Generator().manual_seed(seed)
    adapter = fresh(load_model(checkpoint, dtype=torch.float32), rank, 2.0 * rank, targets=targets, generator=generator)
    drawn = {name: torch.randn(b.shape, generator=generator) * 0.05 for name, (_, b) in adapter.pairs.items()}
    return Adapter(adapter.scale, {name: (a, drawn[name]) for name, (a, _) in adapter.pairs.items()})


@pytest.mark.parametrize(("rank", "kind"), [(3, "F32"), (16, "BF16"), (40, "F32")])
@pytest.mark.parametrize("name", MODELS)
def test_an_adapter_is_as_good_as_merged(name, rank, kind) -> None:
    """The same weights with the adapter added to them, in float32; without it the logits are somewhere else."""
    checkpoint = MemoryCheckpoint(MODELS[name])
    adapter = adapter_for(checkpoint, rank, seed=1)
    runner = NativeRunner(checkpoint, n_pages=4, threads=2, adapter_type=kind)
    runner.set_adapter(3, adapter)
    ids = tokens(100)
    got = runner.step([SequenceStep(ids, 0, [2, 0], 0, adapter=3)])
    model = load_model(checkpoint, dtype=torch.float32)
    assert errors(got, reference(model, ids)).quantile(0.5) > 0.1
    merge(model, adapter)
    far = errors(got, reference(model, ids))
    assert far.quantile(0.5) < 0.02
    one = runner.step([SequenceStep(ids[:1], 0, [1], 0, adapter=3)])
    assert torch.equal(one[0], got[0])


@pytest.mark.parametrize("kind", ["BF16", "F32"])
def test_an_adapter_of_numpy_arrays_is_the_same(kind, tmp_path) -> None:
    """Read from its file without PyTorch, rounded by ours instead of PyTorch's: not a bit differs."""
    checkpoint = MemoryCheckpoint(MODELS["llama"])
    write_adapter(tmp_path, adapter_for(checkpoint, 5, seed=2), base="x")
    stored = read_adapter(tmp_path)
    runner = NativeRunner(checkpoint, n_pages=4, threads=1, adapter_type=kind)
    runner.set_adapter(0, stored.adapter)
    runner.set_adapter(1, stored.on_host())
    tensors, arrays = (runner.step([SequenceStep(tokens(20), 0, [page], 0, adapter=page)]) for page in (0, 1))
    assert torch.equal(torch.as_tensor(tensors), torch.as_tensor(arrays))


def test_adapters_in_one_batch_do_not_meet(mixed) -> None:
    """Rows of several adapters and of none: each gives the bits of its sequence alone, the base those of no adapter."""
    first, second = adapter_for(mixed, 16, seed=1), adapter_for(mixed, 5, seed=2, targets=("o_proj", "gate_proj"))
    runner, plain = (NativeRunner(mixed, n_pages=40, threads=threads) for threads in (2, 3))
    runner.set_adapter(0, first)
    runner.set_adapter(1, second)
    choices = [None, 0, 1, 0, None, 1, 0]
    ids = [tokens(length, seed=i) for i, length in enumerate([70, 9, 130, 64, 1, 33, 200])]
    whole = [
        SequenceStep(each, 0, range(i * 5, i * 5 + 5), 0, choice)
        for i, (each, choice) in enumerate(zip(ids, choices, strict=True))
    ]
    alone = [runner.step([one]) for one in whole]
    assert torch.equal(runner.step(whole), torch.cat(alone))
    assert torch.equal(plain.step([whole[0]]), alone[0])
    runner.step(
        [
            SequenceStep(one.tokens[:-1], 0, one.pages, len(one.tokens) - 1, one.adapter)
            for one in whole
            if len(one.tokens) > 1
        ]
    )
    last = [SequenceStep(one.tokens[-1:], len(one.tokens) - 1, one.pages, 0, one.adapter) for one in whole]
    expected = [each[-1:] for each in alone]
    assert torch.equal(runner.step(last), torch.cat(expected))
    assert torch.equal(runner.step(last[1:4]), torch.cat(expected[1:4]))
    other = adapter_for(mixed, 16, seed=3)
    runner.set_adapter(0, other)  # where the old weights lie
    plain.set_adapter(7, other)
    assert torch.equal(runner.step([whole[3]]), plain.step([SequenceStep(ids[3], 0, range(5), 0, 7)]))
    assert torch.equal(runner.step([whole[2]]), alone[2])
    runner.set_adapter(0, second)  # another rank, fewer weights
    assert torch.equal(runner.step([SequenceStep(ids[2], 0, range(5), 0, 0)]), alone[2])
    runner.drop_adapter(0)
    with pytest.raises(NativeError, match="adapter 0 does not exist"):
        runner.step([whole[1]])


def test_a_fresh_adapter_fits_a_model_with_prediction_modules() -> None:
    checkpoint = MemoryCheckpoint(PREDICTING["odd sizes"])
    runner = NativeRunner(checkpoint, n_pages=2, threads=1)
    step = [SequenceStep([1, 2, 3], 0, [0], 0)]
    plain = runner.step(step)
    runner.set_adapter(0, fresh(load_model(checkpoint, dtype=torch.float32), 4, 8.0))
    assert torch.equal(runner.step([SequenceStep([1, 2, 3], 0, [0], 0, 0)]), plain)  # it changes nothing yet


@pytest.mark.parametrize(
    ("pairs", "message"),
    [
        ({}, "empty"),
        ({"model.layers.0.self_attn.kv_b_proj": (2, 64, 256)}, "kv_b_proj, which takes none"),
        ({"model.layers.1.mlp.experts.3.up_proj": (2, 96, 64)}, "experts.3.up_proj, which takes none"),
        ({"lm_head": (2, 96, 317)}, "lm_head, which takes none"),
        ({"model.layers.3.self_attn.o_proj": (2, 64, 96)}, "layers.3.self_attn.o_proj, which takes none"),
        ({"model.layers.0.self_attn.o_proj": (2, 60, 96)}, "expected"),
        ({"model.layers.0.self_attn.o_proj": (0, 64, 96)}, "expected"),
    ],
)  # fmt: skip
def test_what_cannot_be_adapted_is_refused_by_name(pairs, message) -> None:
    runner = NativeRunner(MemoryCheckpoint(SHAPES["deepseek v3"]), n_pages=2, threads=1)
    made = {name: (torch.zeros(rank, into), torch.zeros(out, rank)) for name, (rank, into, out) in pairs.items()}
    with pytest.raises(InvalidRequestError, match=message):
        runner.set_adapter(0, Adapter(1.0, made))


TEXT = (
    "The capital of France is Paris. The most famous building of the city is the Eiffel Tower, which was built in 1889 "
    "for the World's Fair. Since then it has been visited by more than three hundred million people, and"
)


@pytest.fixture(scope="module")
def smollm2(smollm2_gguf):
    from fathom.text.tokenizer import Tokenizer

    checkpoint = open_checkpoint(smollm2_gguf)
    tokenizer = Tokenizer.from_gguf(checkpoint.metadata)
    return checkpoint, load_model(checkpoint, dtype=torch.float32), tokenizer


def test_the_default_model_keeps_its_logits(smollm2) -> None:
    """The distance of llama.cpp from the dequantised float32 model is 5 % on this file (docs/kernels.md)."""
    checkpoint, model, tokenizer = smollm2
    ids = tokenizer.encode(TEXT)
    got = NativeRunner(checkpoint, n_pages=4, threads=2).step([SequenceStep(ids, 0, [0], 0)])
    expected = reference(model, ids)
    assert errors(got, expected).mean() < 0.05
    assert float((got.argmax(-1) == expected.argmax(-1)).float().mean()) > 0.95


def test_the_default_model_answers_as_in_float32(smollm2) -> None:
    checkpoint, model, tokenizer = smollm2
    question = "<|im_start|>user\nWhat is the capital of France?<|im_end|>\n<|im_start|>assistant\n"
    ids = prompt = tokenizer.encode_control(question)
    runner = NativeRunner(checkpoint, n_pages=4, threads=2)
    logits = runner.step([SequenceStep(ids, 0, [1], len(ids) - 1)])
    for position in range(len(ids), len(ids) + 8):
        ids = [*ids, int(logits.argmax())]
        logits = runner.step([SequenceStep(ids[-1:], position, [1], 0)])
    assert "Paris" in tokenizer.decode(ids[len(prompt) :])
    assert reference(model, ids)[len(prompt) - 1 : -1].argmax(-1).tolist() == ids[len(prompt) :]


@pytest.mark.slow
def test_speculation_changes_no_word_of_the_default_model(smollm2_gguf) -> None:
    import fathom

    questions = [f"Repeat this: {TEXT}", f"Summarise: {TEXT}", "Count to fifty.", "Write a poem about rain."]
    answers, accepted = {}, 0
    for mode in ("off", "auto"):
        with fathom.load(smollm2_gguf, speculation=mode) as engine:
            answers[mode] = [
                engine.generate(question, max_tokens=160, **options).content
                for question in questions
                for options in ({"temperature": 0.0}, {"seed": 7}, {"seed": 7, "temperature": 1.0})
            ]
            accepted = engine.stats().load.counts.accepted_tokens
    assert answers["off"] == answers["auto"]
    assert accepted > 100
