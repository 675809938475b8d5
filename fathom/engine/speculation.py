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
from fathom.engine.step_cost import StepCost

SpeculationMode = Literal["auto", "lookup", "off"]  # auto: prompt lookup, and the model's own modules where it has any
MODES: tuple[SpeculationMode, ...] = ("auto", "lookup", "off")

MAX_DRAFT = 24
FIRST_PAUSE, LONGEST_PAUSE = 4, 128  # tokens without a draft after one that was not worth it; doubled each time
MODULES = "modules"
_EXPECTED = {MODULES: 0.7, "lookup 2": 0.3, "lookup 3-5": 0.5, "lookup 6+": 0.75}  # before any is seen
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

    def candidates(self, tokens: Sequence[int], most: int) -> list[Draft]:
        """What may follow `tokens`."""
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
