"""An engine's speculation: adds drafts to planned steps, and learns how drafts fare."""

import logging
import time
from collections.abc import Sequence

from fathom.engine.active import ActiveRequest
from fathom.engine.runner import Continuation, DraftingRunner, Runner
from fathom.engine.scheduler import ScheduledSequence, Scheduler, StepPlan
from fathom.engine.speculation import MAX_DRAFT, Draft, Drafting, SpeculationMode, StepBudget
from fathom.engine.step_cost import StepCost

log = logging.getLogger("fathom.engine")

_OVER = Continuation(0, (), 0)


class Speculator:
    """Used by the engine's thread only.

    Args:
        runner: whose prediction modules draft, if it has any and `mode` is "auto".
        mode: "off" drafts nothing.
        cost: what steps take; kept by the engine.

    """

    def __init__(self, runner: Runner, mode: SpeculationMode, cost: StepCost) -> None:
        self._on = mode != "off"
        has_modules = isinstance(runner, DraftingRunner) and runner.max_draft > 0
        self._modules = runner if mode == "auto" and isinstance(runner, DraftingRunner) and has_modules else None
        self._cost = cost
        self._module_seconds = 0.0  # for one sequence in one step, lately

    def add_drafts(self, plan: StepPlan[ActiveRequest], scheduler: Scheduler[ActiveRequest]) -> None:
        """Give the sequences that decode the drafts that pay, as far as budget and pages go."""
        work = plan.work
        decodes = [one for one, _ in work if one.remaining == 1 and one.owner.speculates and not one.owner.steered]
        if not (self._on and decodes and self._cost.known):
            return
        step = StepBudget(self._cost, sum(count for _, count in work), len(decodes))
        for sequence in decodes:
            drafting = sequence.owner.drafting = sequence.owner.drafting or Drafting()
            most = min(MAX_DRAFT, plan.budget, sequence.owner.tokens_left(sequence) - 1)
            if most < 1:
                continue
            draft = step.choose(drafting, drafting.candidates(sequence.tokens, most))
            if draft is None:
                continue
            granted = scheduler.add_draft(plan, sequence, draft.tokens)
            if granted:
                drafting.planned = Draft(draft.tokens[:granted], draft.kind)
                step.add(drafting, draft, granted)

    def observe_draft(self, owner: ActiveRequest, accepted: int) -> None:
        """Note how a request's draft of this step fared."""
        if owner.drafting is not None and owner.drafting.planned is not None:
            owner.drafting.observe(owner.drafting.planned, accepted)
            owner.drafting.planned = None

    def ask_modules(self, sequences: Sequence[tuple[ScheduledSequence[ActiveRequest], int]]) -> None:
        """Let the model's modules see the last step, and guess further; sequences with their start in that step."""
        if self._modules is None:
            return
        continuations = [self._continuation(sequence, start) for sequence, start in sequences]
        if not any(one.kept for one in continuations):
            return
        began = time.perf_counter()
        try:
            guesses = self._modules.draft(continuations)
        except Exception:
            log.exception("the model's prediction modules failed; the engine goes on without them")
            self._modules = None
            guesses = [[] for _ in continuations]
        self._judge(sequences, guesses, (time.perf_counter() - began) / len(sequences))

    def _continuation(self, sequence: ScheduledSequence[ActiveRequest], start: int) -> Continuation:
        owner = sequence.owner
        if self._modules is None or owner.over or not owner.speculates:
            return _OVER
        drafting = owner.drafting = owner.drafting or Drafting()
        if drafting.without_modules:
            return _OVER
        following = sequence.tokens[sequence.computed : sequence.computed + self._modules.max_draft]
        wanted = self._modules.max_draft if sequence.remaining == 1 and not owner.steered else 0
        return Continuation(sequence.computed - start, following, wanted)

    def _judge(
        self,
        sequences: Sequence[tuple[ScheduledSequence[ActiveRequest], int]],
        guesses: Sequence[list[int]],
        seconds: float,
    ) -> None:
        self._module_seconds += 0.1 * (seconds - self._module_seconds)
        for (sequence, _), guess in zip(sequences, guesses, strict=True):
            drafting = sequence.owner.drafting
            if drafting is not None:
                drafting.from_modules = guess
                if self._cost.known:
                    drafting.judge_modules((self._cost.row_seconds + self._module_seconds) / self._cost.seconds(1))
