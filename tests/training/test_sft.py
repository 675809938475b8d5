import importlib.util
import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from fathom.checkpoints.adapters import read_adapter
from fathom.cli.main import main
from fathom.data.errors import RecipeError
from fathom.engine.loading import read_template
from fathom.models.cache import NoCache
from fathom.text import Message, Tokenizer
from fathom.training.errors import ResumeError
from fathom.training.log_probabilities import log_probabilities, plain_log_probabilities
from fathom.training.recipe import CheckpointSettings
from fathom.training.sequences import flat_batch, padded_length
from fathom.training.sft import SftTrainer
from fathom.training.sft_data import Batches, Example, examples, micro_batches, read_conversations
from fathom.training.sft_recipe import LoraSettings, SftBatch, SftData, SftRecipe, SftSchedule

_spec = importlib.util.spec_from_file_location("chat_model", Path(__file__).with_name("chat_model.py"))
chat_model = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(chat_model)


@pytest.fixture
def base(tmp_path):
    chat_model.write_chat_model(tmp_path / "model")
    chat_model.write_conversations(tmp_path / "chats.jsonl")
    return tmp_path


RECIPE = SftRecipe(
    model="model",
    output="run",
    data=SftData(files=("chats.jsonl",), max_tokens=200),
    schedule=SftSchedule(peak=0.01, warmup_steps=2),
    epochs=2.0,
    batch=SftBatch(tokens=600, micro_tokens=400),
    lora=LoraSettings(rank=4, alpha=8),
    dialect="chatml-think",
    precision="float32",
    held_out=8,
    checkpoints=CheckpointSettings(every=3, keep=9),
)


def test_flat_batch_equals_one_sequence_at_a_time(base):
    trainer = SftTrainer(RECIPE, base, say=lambda _: None)
    sequences = [list(range(5, 5 + length)) for length in (9, 30, 28, 3, 9)]
    batch = flat_batch(sequences)
    assert len(batch.tokens_N) == padded_length([len(one) for one in sequences])
    hidden = trainer.model(batch.tokens_N, batch.positions_N, batch.cache())
    for start, ids in zip(batch.starts, sequences, strict=True):
        tokens = torch.tensor(ids)
        alone = trainer.model(tokens, torch.arange(len(ids)), NoCache(1, len(ids)))
        assert torch.allclose(hidden[start : start + len(ids)], alone, atol=1e-5)


@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_log_probabilities_equal_their_twin_in_value_and_gradient(temperature):
    generator = torch.Generator().manual_seed(0)
    weight, targets = torch.randn(50, 8, generator=generator), torch.arange(11) * 4
    hidden = torch.randn(11, 8, generator=generator, requires_grad=True)
    twin = hidden.detach().clone().requires_grad_()
    ours = log_probabilities(hidden, weight, targets, temperature, rows=4)
    theirs = plain_log_probabilities(twin, weight, targets, temperature)
    assert torch.allclose(ours.chosen_M, theirs.chosen_M, atol=1e-5)
    assert torch.allclose(ours.entropy_M, theirs.entropy_M, atol=1e-5)
    scale = torch.randn(11, generator=generator)
    (ours.chosen_M * scale).sum().backward()
    (theirs.chosen_M * scale).sum().backward()
    assert torch.allclose(hidden.grad, twin.grad, atol=1e-5)


def test_what_is_learned_is_the_assistants_alone_and_thoughts_by_choice(base):
    tokenizer = Tokenizer.from_folder(base / "model")
    template = read_template(tokenizer, "chatml-think")
    talk = [
        Message("user", "1 + 1 ="),
        Message("assistant", "2", "one and one"),
        Message("user", "Thanks"),
        Message("assistant", "Welcome"),
    ]
    first, second = examples(talk, template, tokenizer, "thoughts and answers")
    opened = "<|im_start|>user\n1 + 1 =<|im_end|>\n<|im_start|>assistant\n"
    assert tokenizer.decode(first.ids) == opened + "<think>\none and one\n</think>\n\n2<|im_end|>"
    said = [id for id, learned in zip(first.ids, first.learned, strict=True) if learned]
    assert tokenizer.decode(said) == "one and one\n</think>\n\n2<|im_end|>"
    assert "one and one" not in tokenizer.decode(second.ids)  # thoughts are not part of the history
    said = [id for id, learned in zip(second.ids, second.learned, strict=True) if learned]
    assert tokenizer.decode(said) == "Welcome<|im_end|>"
    first, _ = examples(talk, template, tokenizer, "answers")
    said = [id for id, learned in zip(first.ids, first.learned, strict=True) if learned]
    assert tokenizer.decode(said) == "2<|im_end|>"


def test_both_forms_are_read_and_others_named_by_line(base, tmp_path):
    conversations = read_conversations(base / "chats.jsonl")
    assert len(conversations) == 24
    assert [message.role for message in conversations[3]] == ["user", "assistant"]
    bad = tmp_path / "bad.jsonl"
    bad.write_text(
        '{"messages": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Ho"}]}\n{"x": 1}'
    )
    with pytest.raises(RecipeError, match="line 2"):
        read_conversations(bad)
    bad.write_text('{"messages": [{"role": "user", "content": "Hi"}]}')
    with pytest.raises(RecipeError, match="no assistant turn"):
        read_conversations(bad)


def test_micro_batches_hold_every_example_within_their_bound():
    batch = [Example(tuple(range(length)), (True,) * length) for length in (5, 90, 40, 38, 7, 60)]
    parts = micro_batches(batch, 100)
    assert sorted(len(one.ids) for part in parts for one in part) == [5, 7, 38, 40, 60, 90]
    assert all(len(part) == 1 or padded_length([len(one.ids) for one in part]) <= 100 for part in parts)


def test_batches_go_through_every_example_once_an_epoch_in_a_new_order():
    batch = [Example((number, 0), (False, True)) for number in range(7)]
    batches = Batches(batch, tokens=6, seed=0)
    epochs = []
    for _ in range(2):
        seen = []
        while len(seen) < 7:
            seen += [example.ids[0] for example in batches.next()]
        epochs.append(seen)
    assert sorted(epochs[0]) == sorted(epochs[1]) == list(range(7))
    assert epochs[0] != epochs[1]


@pytest.mark.parametrize("lora", [RECIPE.lora, None])
def test_it_learns_and_resumes_bit_for_bit(base, lora):
    recipe = replace(RECIPE, lora=lora)
    whole = SftTrainer(replace(recipe, output="whole"), base, say=lambda _: None)
    before = whole.evaluate()
    losses = []
    summary = whole.run(lambda metrics: losses.append(metrics.loss))
    assert summary.held_out_loss < before - 0.5
    cut = SftTrainer(replace(recipe, output="cut"), base, say=lambda _: None)
    for _ in range(4):  # a kill after step 4: the newest checkpoint is that of step 3
        metrics = cut.take_step()
        if cut.step % 3 == 0:
            cut._save(last=False)
    with pytest.raises(ResumeError, match="holds a run already"):
        SftTrainer(replace(recipe, output="cut"), base, say=lambda _: None)
    other = replace(recipe, output="cut", schedule=SftSchedule(peak=0.5))
    with pytest.raises(ResumeError, match="schedule"):
        SftTrainer(other, base, resume=True, say=lambda _: None)
    again = SftTrainer(replace(recipe, output="cut"), base, resume=True, say=lambda _: None)
    assert again.step == 3
    resumed = []
    again.run(lambda metrics: resumed.append(metrics.loss))
    assert resumed == losses[3:]
    for name, weight in whole.learned.weights.items():
        assert torch.equal(weight, again.learned.weights[name])
    lines = [json.loads(line) for line in (base / "cut" / "metrics.jsonl").read_text().splitlines()]
    assert metrics.step == 3
    assert [line["step"] for line in lines if line["kind"] == "step"] == list(range(3, len(losses)))


def test_the_command_writes_an_adapter_that_peft_would_read(base, capsys):
    (base / "recipe.toml").write_text(
        'model = "model"\noutput = "out"\nepochs = 1.0\ndialect = "chatml-think"\nprecision = "float32"\n'
        '[data]\nfiles = ["chats.jsonl"]\n[lora]\nrank = 2\nalpha = 4\n[schedule]\npeak = 0.01\n'
    )
    assert main(["train", "sft", str(base / "recipe.toml"), "--set", "batch.tokens=400", "--json"]) == 0
    report = json.loads(capsys.readouterr().out.strip().splitlines()[-1])
    stored = read_adapter(report["checkpoint"])
    assert stored.base == "model"
    assert stored.adapter.rank == 2
    assert any(b.abs().sum() > 0 for _, b in stored.adapter.pairs.values())
