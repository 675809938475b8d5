"""Groups of rollouts on their way: which problems are asked, what a step leaves unfinished, what is worth asking again.

A step may end before its rollouts do (a budget of tokens or seconds): they keep their tokens and the log-probabilities
of the policy that drew them, and the next policy goes on from there. A group teaches when all of its rollouts are over.
"""

import random
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, NamedTuple

from fathom.engine import GenerationDefaults
from fathom.rl.grpo_recipe import GrpoRecipe
from fathom.rl.objective import advantages
from fathom.rl.problems import Problem
from fathom.rl.rewards import Reward, reward
from fathom.rl.rollouts import Rollout, read, seed_of
from fathom.rl.samplers import Draw, Sampler
from fathom.text import ChatTemplate, Message, Tokenizer

_TRIES = 8  # problems looked at for one that is likely to teach
_MEMORY = 0.8  # weight of the past in what is known of a task
_LEAST = 0.1  # a task that has not taught lately is still asked now and then


class Judged(NamedTuple):
    """A rollout with its reward and advantage."""

    rollout: Rollout
    reward: Reward
    advantage: float


class Voice(NamedTuple):
    """How the policy is asked and read."""

    tokenizer: Tokenizer
    template: ChatTemplate
    defaults: GenerationDefaults

    def prompt(self, problem: Problem) -> tuple[int, ...]:
        """The ids that a thought about the problem follows."""
        messages = [Message("user", problem.question)]
        if self.defaults.system is not None:
            messages = [Message("system", self.defaults.system), *messages]
        return self.template.render(messages, thinking=True).ids


class Place(NamedTuple):
    """Where a problem lies: the number of its source in the recipe, and its own number there."""

    source: int
    number: int


@dataclass(slots=True)
class OpenRollout:
    """A rollout so far; `pieces`: how many steps it was drawn in."""

    tokens: list[int] = field(default_factory=list)
    logprobs: list[float | None] = field(default_factory=list)
    versions: list[int] = field(default_factory=list)
    pieces: int = 0
    over: bool = False
    cut_off: bool = False


@dataclass(slots=True)
class OpenGroup:
    """A problem whose rollouts are not all over; `number` counts all groups of the run."""

    number: int
    place: Place
    prompt: tuple[int, ...]
    sequences: list[OpenRollout]

    @property
    def over(self) -> bool:
        """Whether every rollout is."""
        return all(one.over for one in self.sequences)


class Collected(NamedTuple):
    """What one step learns from: groups and where their problems lie. `waiting`: groups that go on in the next step."""

    groups: list[list[Judged]]
    places: list[Place]
    waiting: int
    seconds: float


Judge = Callable[[Sequence[Rollout]], list[Reward]]  # the rewards of one group's rollouts


class Collector:
    """Draws groups for one step after another; everything it remembers is in `state`.

    Args:
        recipe: what to draw.
        pools: problems by source.
        voice: how the policy is asked and read.
        sampler: who draws.
        judge: who rewards; None: by the rules of the recipe.

    """

    def __init__(
        self,
        recipe: GrpoRecipe,
        pools: Sequence[Sequence[Problem]],
        voice: Voice,
        sampler: Sampler,
        judge: Judge | None = None,
    ) -> None:
        self._recipe, self._pools, self._voice, self._sampler = recipe, pools, voice, sampler
        self._judge = judge or (lambda rollouts: [reward(one.problem, one.said, recipe.rewards) for one in rollouts])
        self._next = 0
        self._open: list[OpenGroup] = []
        self._teaches: dict[str, float] = {}

    def collect(self, version: int) -> Collected:
        """The groups that end in the next step, drawn from the policy of `version` (one of them at least)."""
        start, settings = time.perf_counter(), self._recipe.rollouts
        found: list[list[Judged]] = []
        places: list[Place] = []
        waves = 0
        while not found or (waves <= settings.extra_waves and _teaching(found) < self._recipe.questions):
            left = settings.step_seconds or None
            if left is not None and found:
                left -= time.perf_counter() - start
                if left <= 0:
                    break
            self._fill(self._recipe.questions - _teaching(found))
            self._go_on(version, left)
            for group in self._take_over():
                found.append(self._judged(group))
                places.append(group.place)
            waves += 1
        return Collected(found, places, len(self._open), time.perf_counter() - start)

    def problem(self, place: Place) -> Problem:
        """The problem that lies there."""
        return self._pools[place.source][place.number]

    def place_of(self, number: int) -> Place:
        """Where a group's problem lies: by seed and the group's number alone, unless there is a curriculum."""
        recipe = self._recipe
        step, within = divmod(number, recipe.questions)
        draw = random.Random(f"{recipe.seed} {step}")
        weights = [source.weight for source in recipe.sources]
        sources = draw.choices(range(len(self._pools)), weights, k=recipe.questions)
        numbers = [draw.randrange(len(self._pools[source])) for source in sources]
        place = Place(sources[within], numbers[within])
        if not recipe.rollouts.curriculum:
            return place
        again = random.Random(f"{recipe.seed} {step} {within}")
        for _ in range(_TRIES):
            if again.random() < self._teaches.get(self.problem(place).task, 1.0):
                break
            source = again.choices(range(len(self._pools)), weights)[0]
            place = Place(source, again.randrange(len(self._pools[source])))
        return place

    def state(self) -> dict[str, Any]:
        """JSON of all that the next steps depend on; the prompts are rendered again."""
        opened = [
            {"number": one.number, "place": one.place, "sequences": [asdict(each) for each in one.sequences]}
            for one in self._open
        ]
        return {"next": self._next, "teaches": self._teaches, "open": opened}

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Go on from there."""
        self._next, self._teaches = state["next"], dict(state["teaches"])
        self._open = []
        for one in state["open"]:
            place = Place(*one["place"])
            sequences = [OpenRollout(**each) for each in one["sequences"]]
            self._open.append(OpenGroup(one["number"], place, self._voice.prompt(self.problem(place)), sequences))

    def _fill(self, wanted: int) -> None:
        """Open groups until so many are on their way."""
        while len(self._open) < wanted:
            place = self.place_of(self._next)
            prompt = self._voice.prompt(self.problem(place))
            self._open.append(
                OpenGroup(self._next, place, prompt, [OpenRollout() for _ in range(self._recipe.group_size)])
            )
            self._next += 1

    def _go_on(self, version: int, seconds: float | None) -> None:
        """Continue every rollout that is not over, by at most the budget of a step."""
        recipe = self._recipe
        budget = recipe.rollouts.step_tokens or recipe.max_tokens
        going = [
            (group, sample, one) for group in self._open for sample, one in enumerate(group.sequences) if not one.over
        ]
        draws = []
        for group, sample, one in going:
            step, within = divmod(group.number, recipe.questions)
            seed = seed_of(recipe.seed * 100_003 + step, within, sample) + one.pieces * 1_000_000_007
            most = min(budget, recipe.max_tokens - len(one.tokens))
            draws.append(Draw((*group.prompt, *one.tokens), most, seed))
        for (_, _, one), drawn in zip(going, self._sampler.draw(draws, recipe.temperature, seconds), strict=True):
            one.tokens += drawn.tokens
            one.logprobs += drawn.logprobs
            one.versions += [version] * len(drawn.tokens)
            one.pieces += 1
            one.cut_off = not drawn.over and len(one.tokens) >= recipe.max_tokens
            one.over = drawn.over or one.cut_off

    def _take_over(self) -> list[OpenGroup]:
        """Take away the groups that are over."""
        over = [group for group in self._open if group.over]
        self._open = [group for group in self._open if not group.over]
        return over

    def _judged(self, group: OpenGroup) -> list[Judged]:
        """Judge a group, and note what its task is good for."""
        problem = self.problem(group.place)
        rollouts = [self._rollout(problem, group.prompt, one) for one in group.sequences]
        judged = with_advantages(rollouts, self._judge(rollouts), self._recipe)
        past, now = self._teaches.get(problem.task, 1.0), float(any(one.advantage for one in judged))
        self._teaches[problem.task] = max(_LEAST, _MEMORY * past + (1 - _MEMORY) * now)
        return judged

    def pack(self, collected: Collected) -> dict[str, Any]:
        """What was collected, as JSON for a checkpoint."""
        groups = [
            [
                {
                    "tokens": one.rollout.tokens,
                    "logprobs": one.rollout.logprobs,
                    "versions": one.rollout.versions,
                    "reward": asdict(one.reward),
                    "advantage": one.advantage,
                }
                for one in group
            ]
            for group in collected.groups
        ]
        return {**collected._asdict(), "groups": groups}

    def unpack(self, packed: Mapping[str, Any]) -> Collected:
        """The inverse of `pack`."""
        groups, places = [], [Place(*place) for place in packed["places"]]
        for place, group in zip(places, packed["groups"], strict=True):
            problem, judged = self.problem(place), []
            prompt = self._voice.prompt(problem)
            for one in group:
                given = Reward(**one["reward"])
                said = read(self._voice.tokenizer, one["tokens"], "think", cut_off=given.cut_off)
                tokens, logprobs, versions = (tuple(one[key]) for key in ("tokens", "logprobs", "versions"))
                rollout = Rollout(problem, prompt, tokens, logprobs, said, versions)
                judged.append(Judged(rollout, given, one["advantage"]))
            groups.append(judged)
        return Collected(groups, places, packed["waiting"], packed["seconds"])

    def _rollout(self, problem: Problem, prompt: tuple[int, ...], one: OpenRollout) -> Rollout:
        said = read(self._voice.tokenizer, one.tokens, "think", cut_off=one.cut_off)
        return Rollout(problem, prompt, tuple(one.tokens), tuple(one.logprobs), said, tuple(one.versions))


def judge_group(group: Sequence[Rollout], recipe: GrpoRecipe) -> list[Judged]:
    """Rewards by the recipe's rules, and advantages, of one group."""
    return with_advantages(group, [reward(one.problem, one.said, recipe.rewards) for one in group], recipe)


def with_advantages(group: Sequence[Rollout], rewards: Sequence[Reward], recipe: GrpoRecipe) -> list[Judged]:
    """A rollout that nobody could judge takes no part: advantage 0."""
    parts = [
        place
        for place, one in enumerate(rewards)
        if one.accuracy is not None and not (recipe.objective.mask_cut_off and one.cut_off)
    ]
    values = [0.0] * len(group)
    if len(parts) > 1:
        totals = [rewards[place].total for place in parts]
        for place, value in zip(parts, advantages(totals, recipe.objective.scale), strict=True):
            values[place] = value
    return [Judged(*one) for one in zip(group, rewards, values, strict=True)]


def _teaching(groups: Sequence[Sequence[Judged]]) -> int:
    return sum(any(one.advantage for one in group) for group in groups)
