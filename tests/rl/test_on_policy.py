"""On-policy distillation: the divergence is right, in chunks too, falls, and other vocabularies are refused."""

import importlib.util
import json
from pathlib import Path

import pytest
import torch

from fathom.checkpoints import load_model, open_checkpoint
from fathom.cli.main import main
from fathom.data.errors import RecipeError
from fathom.engine.loading import read_tokenizer
from fathom.rl.distill import DistillRecipe, Teacher
from fathom.rl.on_policy import check_same_vocabulary, chunked_reverse_kl, reverse_kl

_spec = importlib.util.spec_from_file_location("chat_model", Path(__file__).parents[1] / "training" / "chat_model.py")
chat_model = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(chat_model)


def test_the_divergence_is_torchs_own_and_the_same_in_chunks(tmp_path):
    models = [
        load_model(open_checkpoint(chat_model.write_chat_model(tmp_path / str(seed), seed)), dtype=torch.float32)
        for seed in (0, 1)
    ]
    for model in models:
        model.requires_grad_(False)
    student_MD = torch.randn(11, 32, requires_grad=True)
    teacher_MD = torch.randn(11, 32)
    logits = [model.logits(hidden) for model, hidden in zip(models, (student_MD, teacher_MD), strict=True)]
    whole, _ = reverse_kl(*logits)
    student, teacher = (one.log_softmax(-1) for one in logits)
    wanted = torch.nn.functional.kl_div(teacher, student, log_target=True, reduction="none").sum(-1)
    torch.testing.assert_close(whole, wanted)
    (gradient,) = torch.autograd.grad(whole.sum(), student_MD)
    chunked, _ = chunked_reverse_kl(models[0], student_MD, models[1], teacher_MD, rows=4)
    torch.testing.assert_close(chunked, whole)
    torch.testing.assert_close(torch.autograd.grad(chunked.sum(), student_MD)[0], gradient)


def test_the_command_lowers_the_divergence(tmp_path):
    chat_model.write_chat_model(tmp_path / "student", 0)
    chat_model.write_chat_model(tmp_path / "teacher", 1)
    (tmp_path / "sums.jsonl").write_text(json.dumps({"question": "1+1", "answer": "#### 2"}))
    (tmp_path / "recipe.toml").write_text(
        '[teacher]\nmodel = "teacher"\n[on_policy]\nmodel = "student"\noutput = "out"\nsteps = 10\nrate = 0.03\n'
        'questions = 1\ngroup_size = 6\nmax_tokens = 30\ndialect = "chatml-think"\nprecision = "float32"\n'
        'runner = "torch"\nthreads = 1\n[on_policy.lora]\nrank = 8\n[[on_policy.sources]]\ntask = "sums.jsonl"\n'
    )
    assert main(["train", "distill", str(tmp_path / "recipe.toml"), "--json"]) == 0
    lines = [json.loads(line) for line in (tmp_path / "out" / "metrics.jsonl").read_text().splitlines()]
    assert lines[-1]["kl"] < 0.8 * lines[0]["kl"]


def test_other_vocabularies_and_endpoints_are_refused(tmp_path):
    one = read_tokenizer(open_checkpoint(chat_model.write_chat_model(tmp_path / "one")))
    folder = chat_model.write_chat_model(tmp_path / "two")
    text = (folder / "tokenizer.json").read_text()
    (folder / "tokenizer.json").write_text(text.replace("<|endoftext|>", "<|another|>"))
    other = read_tokenizer(open_checkpoint(folder))
    check_same_vocabulary(one, one)
    with pytest.raises(RecipeError, match="token 0 is"):
        check_same_vocabulary(other, one)
    with pytest.raises(RecipeError, match="output names"):
        DistillRecipe(Teacher("m"))
