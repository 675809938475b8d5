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
from fathom.rl.collector import judge_group
from fathom.rl.grpo import GrpoTrainer
from fathom.rl.grpo_metrics import metrics_of
from fathom.rl.grpo_recipe import GrpoRecipe, ObjectiveSettings, RolloutSettings, Source, read_grpo_recipe
from fathom.rl.problems import Problem
from fathom.rl.rewards import RewardSettings, Said
from fathom.rl.rollouts import Rollout, Sampling, generate
from fathom.rl.samplers import POLICY
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
    trainer.sampler.set_policy(0, trainer.policy())
    problem = Problem("1+1", "2", "number")
    sampling = Sampling(max_tokens=20, adapter=POLICY)
    alone = generate(trainer.sampler.engine, [problem], 2, sampling, seed=3)
    among = generate(trainer.sampler.engine, [problem, *trainer.pools[0][:3]], 2, sampling, seed=3)
    trainer.close()
    assert [one.tokens for one in alone[0]] == [one.tokens for one in among[0]]


def stable(run: Path) -> list[dict[str, object]]:
    """The metrics of a run without what depends on the clock."""
    clocks = {"rollout_seconds", "waited_seconds", "training_seconds", "tokens_per_second", "cost_usd"}
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


class StoppedError(Exception):
    """Ends a run between two checkpoints."""


def stop_after(step: int):
    def on_step(metrics):
        if metrics.step == step:
            raise StoppedError

    return on_step


@pytest.mark.parametrize(
    "settings",
    [
        RolloutSettings(ahead=1),
        RolloutSettings(ahead=2, step_tokens=25, extra_waves=1, curriculum=True),
    ],
)
def test_a_run_that_draws_ahead_or_in_parts_goes_on_exactly(base, settings):
    recipe = replace(RECIPE, rollouts=settings, steps=4)
    whole = GrpoTrainer(replace(recipe, output="whole"), base, say=quiet)
    whole.run()
    whole.close()
    cut = GrpoTrainer(replace(recipe, output="cut"), base, say=quiet)
    with pytest.raises(StoppedError):
        cut.run(stop_after(2))
    cut.close()
    again = GrpoTrainer(replace(recipe, output="cut"), base, resume=True, say=quiet)
    assert again.step == 2
    again.run()
    again.close()
    assert stable(base / "cut") == stable(base / "whole")
    for name, weight in whole.learned.weights.items():
        assert torch.equal(weight, again.learned.weights[name])


def test_rollouts_ahead_are_of_the_policy_of_so_many_updates_before(base):
    trainer = GrpoTrainer(replace(RECIPE, rollouts=RolloutSettings(ahead=2), steps=6), base, say=quiet)
    ages, drifts = [], []
    for step in range(5):
        metrics, judged = trainer.take_step()
        versions = {version for group in judged for one in group for version in one.rollout.versions}
        assert versions == {max(0, step - 2)}
        ages.append(metrics.staleness)
        drifts.append(metrics.drift)
        assert metrics.mismatch < 1e-3  # of the same weights only
    trainer.close()
    assert ages == [0, 1, 2, 2, 2]
    assert drifts[0] == 0 < drifts[2]


def test_unfinished_rollouts_keep_their_tokens_and_their_log_probabilities(base):
    recipe = replace(RECIPE, rollouts=RolloutSettings(step_tokens=25), rate=0.05, questions=4, group_size=2)
    trainer = GrpoTrainer(recipe, base, say=quiet)
    collector, seen = trainer.collector, {}
    trainer.sampler.set_policy(0, trainer.policy())
    collector._fill(2)  # two groups are a part ahead of the others
    collector._go_on(0, None)
    mixed = 0
    for _ in range(5):
        metrics, judged = trainer.take_step()
        for group in judged:
            assert len(group) == recipe.group_size
            for one in group:
                mixed += len(set(one.rollout.versions)) > 1
                begun = seen.get(one.rollout.tokens[:25])
                if begun is not None:
                    assert one.rollout.logprobs[:25] == begun
        for group in collector._open:
            for one in group.sequences:
                assert one.over or len(one.tokens) % 25 == 0
                seen[tuple(one.tokens[:25])] = tuple(one.logprobs[:25])
    trainer.close()
    assert mixed > 0
    assert metrics.drift > 0
    # The corrected numbers are those of the policies that drew: each part under its own weights.
    assert all(len(one.rollout.logprobs) == len(one.rollout.tokens) for group in judged for one in group)


def test_further_waves_replace_groups_that_teach_nothing(base):
    plain = GrpoTrainer(replace(RECIPE, max_tokens=20), base, say=quiet)
    waves = GrpoTrainer(
        replace(RECIPE, max_tokens=20, rollouts=RolloutSettings(extra_waves=3), output="waves"), base, say=quiet
    )
    before, _ = plain.take_step()
    after, judged = waves.take_step()
    plain.close()
    waves.close()
    teaching = sum(any(one.advantage for one in group) for group in judged)
    assert before.zero_advantage > 0, "the test needs a silent group"
    assert after.groups > before.groups
    assert teaching >= min(RECIPE.questions, round(before.groups * (1 - before.zero_advantage)) + 1)


def test_a_curriculum_asks_less_of_tasks_that_teach_nothing(base):
    lines = [{"question": f"{number}*1", "answer": f"#### {number}"} for number in range(9)]
    (base / "products.jsonl").write_text("\n".join(map(json.dumps, lines)))
    sources = (Source("sums.jsonl"), Source("products.jsonl"))
    trainer = GrpoTrainer(replace(RECIPE, sources=sources, rollouts=RolloutSettings(curriculum=True)), base, say=quiet)
    collector = trainer.collector

    def share() -> float:
        return sum(collector.place_of(number).source == 0 for number in range(300)) / 300

    assert 0.4 < share() < 0.6
    state = collector.state()
    collector.load_state({**state, "teaches": {"sums": 0.1, "products": 1.0}})
    assert share() < 0.25
    trainer.close()


def test_older_rollouts_need_what_corrects_them():
    with pytest.raises(RecipeError, match="temperature 1"):
        replace(RECIPE, rollouts=RolloutSettings(ahead=1), temperature=0.7)
    with pytest.raises(RecipeError, match="importance_cap"):
        replace(RECIPE, rollouts=RolloutSettings(step_tokens=9), objective=ObjectiveSettings(importance_cap=0.0))


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
