"""Speculative decoding: which draft a step verifies beside a sequence's last token, and how long it may be.

A draft is verified by sampling every position from the model's own filtered distribution, with the number that the
request's generator gives that position, and keeping the draft's tokens as long as they equal the samples. For a draft
that proposes one token (all of ours do) this is rejection sampling as in Leviathan et al. (arXiv 2211.17192, algorithm
1): a token x is accepted with probability p(x), and a rejected position's sample has the distribution of p without x.
So the distribution is unchanged, and so is what a seed gives.

A draft of length k costs k further rows in the step and gains a + a^2 + ... + a^k tokens, a being how often drafts of
its kind were right lately. Each further token is worth verifying while a^k exceeds what its row costs in tokens: the
row's seconds (measured) times the tokens per second that the step gives without it.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

from fathom.engine.prompt_lookup import PromptLookup

SpeculationMode = Literal["auto", "lookup", "off"]  # auto: prompt lookup, and the model's own modules where it has any
MODES: tuple[SpeculationMode, ...] = ("auto", "lookup", "off")

MAX_DRAFT = 24
FIRST_PAUSE, LONGEST_PAUSE = 4, 128  # tokens without a draft after one that was not worth it; doubled each time
MODULES = "modules"
FORCED = "forced"
_EXPECTED = {FORCED: 1.0, MODULES: 0.7, "lookup 2": 0.3, "lookup 3-5": 0.5, "lookup 6+": 0.75}  # before any is seen
_EXPECTED_WEIGHT = 2.0  # as if so many tokens had been seen
_MEMORY = 0.8  # weight of the past at each further draft
_GIVE_UP_AFTER = 48  # drafted tokens of the modules before a request may do without them


@dataclass(frozen=True, slots=True)
class Draft:
    """Tokens that may come next, and where they are from."""

    tokens: Sequence[int]
    kind: str


class Acceptance:
    """How often a draft's next token is right, given that those before it were; the recent past counts most."""

    def __init__(self, expected: float) -> None:
        self._right = expected * _EXPECTED_WEIGHT
        self._tried = _EXPECTED_WEIGHT

    @property
    def rate(self) -> float:
        """From 0 to 1."""
        return self._right / self._tried

    def observe(self, drafted: int, accepted: int) -> None:
        """Note how a draft fared: tokens after the first wrong one say nothing."""
        self._right = self._right * _MEMORY + accepted
        self._tried = self._tried * _MEMORY + accepted + (accepted < drafted)


class StepCost:
    """Seconds of a step by its rows: a line fitted to the steps seen, the recent ones counting most.

    Only steps whose every token wants logits are told, since rows of a prompt are cheaper.
    """

    _MEMORY = 0.97
    _SLOPE = 0.1  # a further row over the first one, until steps of different sizes were seen

    def __init__(self) -> None:
        self._weight = self._x = self._y = self._xx = self._xy = 0.0

    @property
    def known(self) -> bool:
        """Whether any step was seen."""
        return self._weight > 0

    def observe(self, rows: int, seconds: float) -> None:
        """Note a step. A hiccup of the machine counts as at most three times what was to be expected."""
        if self.known:
            seconds = min(seconds, 3 * self.seconds(rows))
        keep = self._MEMORY
        self._weight = self._weight * keep + 1
        self._x = self._x * keep + rows
        self._y = self._y * keep + seconds
        self._xx = self._xx * keep + rows * rows
        self._xy = self._xy * keep + rows * seconds

    def seconds(self, rows: int) -> float:
        """What a step of so many rows takes."""
        slope = self.row_seconds
        return max(self._y / self._weight + slope * (rows - self._x / self._weight), slope)

    @property
    def row_seconds(self) -> float:
        """What one more row takes; never less than a fiftieth of a step of one row."""
        mean_x, mean_y = self._x / self._weight, self._y / self._weight
        spread = self._xx / self._weight - mean_x**2
        assumed = mean_y * self._SLOPE / (1 + self._SLOPE * (mean_x - 1))
        if spread < 0.01:
            return assumed
        slope = (self._xy / self._weight - mean_x * mean_y) / spread
        return max(slope, assumed / (50 * self._SLOPE))


@dataclass(slots=True)
class _Kind:
    """One kind of draft in one request: how it fares, and for how many tokens it is left alone."""

    acceptance: Acceptance
    wait: int = 0
    pause: int = FIRST_PAUSE


@dataclass(slots=True)
class Drafting:
    """The drafts of one request.

    Attributes:
        lookup: its tokens.
        from_modules: what the model's own modules guess to follow, made after the last step.
        without_modules: they were wrong so often that the request does without them.
        planned: what the step that runs now verifies.
        drafted, accepted: tokens so far.

    """

    lookup: PromptLookup = field(default_factory=PromptLookup)
    from_modules: list[int] = field(default_factory=list)
    without_modules: bool = False
    planned: Draft | None = None
    drafted: int = 0
    accepted: int = 0
    _kinds: dict[str, _Kind] = field(default_factory=dict)
    _module_tokens: int = 0

    def kind(self, name: str) -> _Kind:
        """The state of a kind of draft."""
        if name not in self._kinds:
            self._kinds[name] = _Kind(Acceptance(_EXPECTED[name]))
        return self._kinds[name]

    def candidates(self, tokens: Sequence[int], forced: Sequence[int], most: int) -> list[Draft]:
        """What may follow `tokens`: the forced tokens alone if there are any, for they will follow."""
        if forced:
            return [Draft(list(forced)[:most], FORCED)]
        self.lookup.follow(tokens)
        matched, found = self.lookup.find(most)
        kind = "lookup 6+" if matched >= 6 else "lookup 3-5" if matched >= 3 else "lookup 2"
        drafts = [Draft(found, kind)] if found else []
        if self.from_modules:
            drafts.append(Draft(self.from_modules[:most], MODULES))
        return drafts

    def observe(self, draft: Draft, accepted: int) -> None:
        """Note how a draft fared."""
        self.drafted += len(draft.tokens)
        self.accepted += accepted
        kind = self.kind(draft.kind)
        kind.acceptance.observe(len(draft.tokens), accepted)
        if accepted:
            kind.wait, kind.pause = 0, FIRST_PAUSE
        if draft.kind == MODULES:
            self._module_tokens += len(draft.tokens)

    def judge_modules(self, worth: float) -> None:
        """Do without the modules when, after a fair trial, they are right less often than pays for them."""
        if self._module_tokens >= _GIVE_UP_AFTER and self.kind(MODULES).acceptance.rate < worth:
            self.without_modules, self.from_modules = True, []


class StepBudget:
    """One step as it is being filled: tokens that it will probably give, and seconds that it will take."""

    def __init__(self, cost: StepCost, rows: int, sampled: int) -> None:
        self._row_seconds = cost.row_seconds
        self._seconds = cost.seconds(rows)
        self._tokens = float(sampled)

    @property
    def worth(self) -> float:
        """The tokens that a further row must give on average to pay for itself."""
        return self._row_seconds * self._tokens / self._seconds

    def choose(self, drafting: Drafting, candidates: Sequence[Draft]) -> Draft | None:
        """The draft, cut to its best length, that gives most; None where none pays."""
        best, best_gain = None, 0.0
        for draft in candidates:
            kind = drafting.kind(draft.kind)
            rate = min(kind.acceptance.rate, 0.999)
            length = min(len(draft.tokens), _paying_length(rate, self.worth))
            if length == 0:
                length = _probe(kind)
            gain = _gain(rate, length) - length * self.worth
            if length and (best is None or gain > best_gain):
                best, best_gain = Draft(draft.tokens[:length], draft.kind), gain
        return best

    def add(self, drafting: Drafting, draft: Draft, granted: int) -> None:
        """Count `granted` tokens of a draft in."""
        self._seconds += self._row_seconds * granted
        self._tokens += _gain(drafting.kind(draft.kind).acceptance.rate, granted)


def _paying_length(rate: float, worth: float) -> int:
    """The largest k with rate^k >= worth."""
    if rate <= 0 or rate < worth:
        return 0
    return int(math.log(worth) / math.log(rate)) if worth > 0 else MAX_DRAFT


def _probe(kind: _Kind) -> int:
    """1 now and then, for a kind of draft that lately did not pay: texts change."""
    if kind.wait > 0:
        kind.wait -= 1
        return 0
    kind.wait = kind.pause
    kind.pause = min(2 * kind.pause, LONGEST_PAUSE)
    return 1


def _gain(rate: float, length: int) -> float:
    """Tokens that a draft of so many is expected to give: a + a^2 + ... + a^k."""
    return length * rate if rate >= 1 else rate * (1 - rate**length) / (1 - rate)
