"""The trainer on a tiny random model: it runs, moves what it should, and goes on exactly where it was killed."""

import importlib.util
import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from fathom.data.errors import RecipeError
from fathom.rl.grpo import POLICY, GrpoTrainer, judge_group, metrics_of
from fathom.rl.grpo_recipe import GrpoRecipe, ObjectiveSettings, Source, read_grpo_recipe
from fathom.rl.problems import Problem
from fathom.rl.rewards import RewardSettings, Said
from fathom.rl.rollouts import Rollout, Sampling, generate
from fathom.training.errors import DivergedError, ResumeError
from fathom.training.recipe import CheckpointSettings
from fathom.training.sft_recipe import LoraSettings

_spec = importlib.util.spec_from_file_location("chat_model", Path(__file__).parents[1] / "training" / "chat_model.py")
chat_model = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(chat_model)

# A random model never ends a thought; what varies among its rollouts is whether they end in time.
RECIPE = GrpoRecipe(
    model="model",
    output="run",
    steps=4,
    sources=(Source("sums.jsonl"),),
    lora=LoraSettings(rank=2, alpha=4),
    rate=0.01,
    questions=3,
    group_size=6,
    max_tokens=60,
    objective=ObjectiveSettings(beta=0.01, reference_every=3),
    rewards=RewardSettings(length=1.0, repetition=0.0),
    dialect="chatml-think",
    precision="float32",
    runner="torch",
    threads=1,
    checkpoints=CheckpointSettings(every=2),
)


@pytest.fixture
def base(tmp_path):
    chat_model.write_chat_model(tmp_path / "model")
    lines = [{"question": f"{number}+1", "answer": f"#### {number + 1}"} for number in range(9)]
    (tmp_path / "sums.jsonl").write_text("\n".join(map(json.dumps, lines)))
    return tmp_path


def quiet(_text: str) -> None:
    """Say nothing."""


def test_sampler_and_trainer_agree_and_the_policy_moves(base):
    trainer = GrpoTrainer(RECIPE, base, say=quiet)
    before = {name: weight.clone() for name, weight in trainer.learned.weights.items()}
    metrics, judged = trainer.take_step()
    trainer.close()
    assert 0 < metrics.mismatch < 1e-3
    assert metrics.zero_advantage < 1
    assert metrics.gradient_norm > 0
    assert len(judged) == 3
    assert any(not torch.equal(weight, before[name]) for name, weight in trainer.learned.weights.items())


def test_the_same_seed_gives_the_same_rollouts_whatever_else_runs(base):
    trainer = GrpoTrainer(RECIPE, base, say=quiet)
    problem = Problem("1+1", "2", "number")
    sampling = Sampling(max_tokens=20, adapter=POLICY)
    alone = generate(trainer.engine, [problem], 2, sampling, seed=3)
    among = generate(trainer.engine, [problem, *trainer.questions(0)], 2, sampling, seed=3)
    trainer.close()
    assert [one.tokens for one in alone[0]] == [one.tokens for one in among[0]]


def stable(run: Path) -> list[dict[str, object]]:
    """The metrics of a run without what depends on the clock."""
    clocks = {"rollout_seconds", "training_seconds", "tokens_per_second", "cost_usd"}
    lines = metrics_of(run / "metrics.jsonl")
    return [{key: value for key, value in line.items() if key not in clocks} for line in lines]


def test_resume_repeats_the_run_that_was_never_stopped(base):
    whole = GrpoTrainer(replace(RECIPE, output="whole"), base, say=quiet)
    whole.run()
    whole.close()
    cut = GrpoTrainer(replace(RECIPE, output="cut", steps=2), base, say=quiet)
    cut.run()
    cut.close()
    with pytest.raises(ResumeError, match="holds a run already"):
        GrpoTrainer(replace(RECIPE, output="cut"), base, say=quiet)
    again = GrpoTrainer(replace(RECIPE, output="cut"), base, resume=True, say=quiet)
    again.run()
    again.close()
    assert stable(base / "cut") == stable(base / "whole")
    for name, weight in whole.learned.weights.items():
        assert torch.equal(weight, again.learned.weights[name])


def test_a_mismatch_above_the_bound_stops_the_run(base):
    trainer = GrpoTrainer(replace(RECIPE, objective=ObjectiveSettings(mismatch_stop=1e-12)), base, say=quiet)
    with pytest.raises(DivergedError, match="sampler and trainer differ"):
        trainer.run()
    trainer.close()


def test_minibatches_use_the_log_probabilities_from_before_the_updates(base):
    trainer = GrpoTrainer(replace(RECIPE, minibatches=3), base, say=quiet)
    metrics, _ = trainer.take_step()
    trainer.close()
    assert trainer.optimizer.updates >= 1
    assert metrics.mismatch < 1e-3  # old, not new, log-probabilities are compared with the sampler's


def test_rollouts_that_nobody_could_judge_take_no_part():
    def rollout(answer: str, right: str) -> Rollout:
        problem = Problem("?", right, "number")
        return Rollout(problem, (1,), (2, 3), (None, None), Said("hm", answer, closed=True, cut_off=False))

    judged = judge_group([rollout("7", "7"), rollout("8", "7"), rollout("7", "seven")], RECIPE)
    assert judged[0].advantage > 0 > judged[1].advantage
    assert judged[2].advantage == 0.0
    assert judged[2].reward.accuracy is None


def test_recipes_name_what_is_wrong(tmp_path):
    file = tmp_path / "recipe.toml"
    top = 'model = "m"\noutput = "o"\nsteps = 1\nrate = 1e-5\ngroup_size = 1\n'
    file.write_text(top + '[lora]\n[[sources]]\ntask = "gcd"\n')
    with pytest.raises(RecipeError, match="at least 2"):
        read_grpo_recipe(file)
    with pytest.raises(RecipeError, match="clip_high"):
        read_grpo_recipe(file, ["group_size=4", "objective.clip_hihg=1"])


@pytest.mark.slow
def test_kill_minus_nine_and_resume_give_the_same_rewards(base):
    (base / "recipe.toml").write_text(
        'model = "model"\noutput = "killed"\nsteps = 6\nrate = 0.01\nquestions = 3\ngroup_size = 6\nmax_tokens = 60\n'
        'dialect = "chatml-think"\nprecision = "float32"\nrunner = "torch"\nthreads = 1\n'
        '[lora]\nrank = 2\nalpha = 4.0\n[[sources]]\ntask = "sums.jsonl"\n[rewards]\nlength = 1.0\nrepetition = 0.0\n'
        "[checkpoints]\nevery = 2\n"
    )
    command = [sys.executable, "-m", "fathom.cli.main", "train", "grpo", str(base / "recipe.toml")]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(Path(__file__).parents[2])}
    subprocess.run([*command, "--set", "output=whole"], check=True, env=environment, capture_output=True)
    process = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    for _ in range(1200):
        if (base / "killed" / "checkpoints" / "step-00000002").exists():
            break
        time.sleep(0.1)
    process.send_signal(signal.SIGKILL)
    process.wait()
    subprocess.run([*command, "--resume"], check=True, env=environment, capture_output=True)
    assert stable(base / "killed") == stable(base / "whole")
