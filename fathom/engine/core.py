"""The engine's thread: it plans a step, runs it, samples, and hands each request its token.

One lock guards the scheduler and the totals; it is never held while the runner works or while a receiver is called.
"""

import logging
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, replace
from itertools import islice

from fathom.engine.active import ActiveRequest
from fathom.engine.adapters import AdapterTable
from fathom.engine.arrays import Logits, arrays_of
from fathom.engine.disk_tier import DiskTier
from fathom.engine.errors import EngineClosedError, EngineError, QueueFull
from fathom.engine.page_store import PageStore
from fathom.engine.pages import PagePool
from fathom.engine.prompt_logprobs import PromptScores
from fathom.engine.request import FinishReason
from fathom.engine.runner import PagingRunner, Runner, SequenceStep
from fathom.engine.sampler import TokenChoice, sample
from fathom.engine.scheduler import ScheduledSequence, Scheduler, StepPlan
from fathom.engine.speculation import SpeculationMode
from fathom.engine.speculator import Speculator
from fathom.engine.stats import Counts, EngineLimits, Load
from fathom.engine.step_cost import StepCost
from fathom.models.adapter import Adapter

log = logging.getLogger("fathom.engine")

FAILED_STEPS_UNTIL_UNHEALTHY = 3
FEWEST_PROMPT_TOKENS = 16  # in a step that decodes too: prompts have to come in at last
PROMOTION_POLL_SECONDS = 0.05  # how long cancellations wait for the disk, when nothing else is to be done

ActiveSequence = ScheduledSequence[ActiveRequest]
Ending = tuple[ActiveSequence, FinishReason, str | None]


@dataclass(frozen=True, slots=True)
class Sampled:
    """What a step chose for one sequence: a token after each of its last own token and its draft's tokens."""

    sequence: ActiveSequence
    draft: Sequence[int]
    choices: Sequence[TokenChoice | None]


class EngineCore:
    """Owns the thread and the scheduler; all its public methods are called from other threads."""

    def __init__(
        self,
        runner: Runner,
        limits: EngineLimits,
        name: str,
        speculation: SpeculationMode = "auto",
        store: PageStore | None = None,
    ) -> None:
        self._runner = runner
        self._cost = StepCost()
        self._speculator = Speculator(runner, speculation, self._cost)
        self._limits = limits
        self._scheduler = Scheduler[ActiveRequest](
            PagePool(runner.n_pages),
            max_step_tokens=limits.max_step_tokens,
            max_running=limits.max_running,
            page_tokens=runner.page_tokens,
        )
        self._adapters = AdapterTable(runner)
        self._tasks: list[tuple[Callable[[], None], Future[None]]] = []  # for the engine's thread, between two steps
        self._counts = Counts()
        self._cancelled: list[ActiveSequence] = []
        self._closing = False
        self._draining = False
        self._failure: str | None = None
        self._failed_in_a_row = 0
        self._wake = threading.Condition()
        self._disk = None
        if store is not None and isinstance(runner, PagingRunner):
            self._disk = DiskTier(store, runner, self._scheduler.pool, self._wake)
        self._thread = threading.Thread(target=self._run, name=f"fathom-engine-{name}", daemon=True)
        self._thread.start()

    # From any thread --------------------------------------------------------------------------------------------------

    def submit(self, active: ActiveRequest) -> ActiveSequence:
        """Queue a request. Raises QueueFull or EngineClosedError before anything is accepted."""
        ids = list(active.request.prompt.ids)
        with self._wake:
            if self._closing:
                why = f" after a failure ({self._failure})" if self._failure else ""
                raise EngineClosedError(f"the engine is closed{why}; load it again")
            self._check_queue(len(ids))
            salt = active.request.salt
            if active.request.adapter is not None:
                active.adapter = self._adapters.use(active.request.adapter)
                salt = active.adapter.salted(salt)
            key, priority = active.request.salt, active.request.priority
            sequence = self._scheduler.add(active, ids, salt=salt, key=key, priority=priority)
            sequence.reuses = active.prompt_scores is None
            self._counts.requests += 1
            self._wake.notify()
        return sequence

    def submit_together(self, actives: Sequence[ActiveRequest]) -> list[ActiveSequence]:
        """Queue requests with no step between them, so that the same requests make the same batches every time."""
        with self._wake:
            return [self.submit(active) for active in actives]

    def cancel(self, sequence: ActiveSequence) -> None:
        """Have a request ended before the next step. Harmless when it is over."""
        with self._wake:
            if not (sequence.owner.cancelled or sequence.owner.over):
                sequence.owner.cancelled = True
                self._cancelled.append(sequence)
                self._wake.notify()

    def position(self, sequence: ActiveSequence) -> int:
        """Place in the queue, from 1; 0 when it runs or is over."""
        with self._wake:
            return self._scheduler.position(sequence)

    def load(self) -> Load:
        """How busy it is, and the totals so far."""
        with self._wake:
            scheduler = self._scheduler
            return Load(
                healthy=self._failure is None and not self._closing,
                failure=self._failure,
                running=len(scheduler.running),
                waiting=len(scheduler.waiting),
                waiting_tokens=scheduler.waiting_tokens,
                pages=scheduler.pool.n_pages,
                pages_held=scheduler.pool.held,
                pages_cached=scheduler.pool.cached,
                preemptions=scheduler.preemptions,
                counts=replace(self._counts, finished=self._counts.finished.copy()),
            )

    @property
    def adapters(self) -> tuple[str, ...]:
        """Names of the adapters that requests may ask for."""
        with self._wake:
            return self._adapters.names

    def put_adapter(self, name: str, adapter: Adapter) -> None:
        """Add an adapter, or give it new weights, before the next step."""
        self._between_steps(lambda: self._adapters.put(name, adapter))

    def remove_adapter(self, name: str) -> None:
        """Take an adapter away, before the next step."""
        self._between_steps(lambda: self._adapters.remove(name))

    def _between_steps(self, task: Callable[[], None]) -> None:
        """Have the engine's thread do something that concerns the runner; returns, or raises, when it is done."""
        if threading.current_thread() is self._thread:
            raise EngineError("adapters cannot be changed in the engine's own thread (from on_event); use another")
        done: Future[None] = Future()
        with self._wake:
            if self._closing:
                raise EngineClosedError("the engine is closed; load it again")
            self._tasks.append((task, done))
            self._wake.notify()
        done.result()

    def close(self, *, drain: bool) -> None:
        """Cancel everything, or let it finish with `drain`; end the thread and close the runner."""
        if threading.current_thread() is self._thread:
            raise EngineError("close() was called in the engine's own thread (from on_event); call it from another")
        with self._wake:
            self._closing = True
            self._draining = drain
            self._wake.notify()
        self._thread.join()

    def _check_queue(self, n_tokens: int) -> None:
        waiting, tokens, limits = len(self._scheduler.waiting), self._scheduler.waiting_tokens, self._limits
        if waiting >= limits.max_queued_requests or (waiting and tokens + n_tokens > limits.max_queued_tokens):
            raise QueueFull(
                f"{waiting} requests with {tokens} prompt tokens wait already (at most {limits.max_queued_requests} "
                f"and {limits.max_queued_tokens}); try again later"
            )

    # The engine's thread ----------------------------------------------------------------------------------------------

    def _run(self) -> None:
        try:
            while self._go_on():
                pass
        except Exception as error:
            log.exception("the engine cannot go on")
            self._failure = _describe(error)
        finally:
            with self._wake:
                self._closing = True
                left = [*self._scheduler.running, *self._scheduler.waiting]
                tasks, self._tasks = self._tasks, []
            for _, done in tasks:
                done.set_exception(EngineClosedError("the engine was closed; load it again"))
            why: FinishReason = "error" if self._failure else "cancelled"
            self._end([(sequence, why, self._failure) for sequence in left])
            if self._disk is not None:
                self._disk.close()
            self._runner.close()

    def _go_on(self) -> bool:
        """Wait for work, then do one step of it; False when it is time to stop."""
        with self._wake:
            self._wake.wait_for(self._has_something_to_do)
            busy = bool(self._scheduler.running or self._scheduler.waiting)
            if self._closing and not (self._draining and busy):
                return False
            cancelled, self._cancelled = self._cancelled, []
            tasks, self._tasks = self._tasks, []
        for task, done in tasks:
            _run_task(task, done)
        self._end([(sequence, "cancelled", None) for sequence in cancelled if not sequence.owner.over])
        admit = self._promote()
        with self._wake:
            plan = self._scheduler.plan(admit=admit, prompt_tokens=self._prompt_tokens())
            self._speculator.add_drafts(plan, self._scheduler)
        if plan.chosen:
            self._step(plan)
        return True

    def _prompt_tokens(self) -> int | None:
        """How many tokens of prompts the next step may hold, so that those who decode do not wait for long."""
        decoding = sum(sequence.remaining == 1 for sequence in self._scheduler.running)
        if not decoding or not self._limits.stretch:
            return None
        fitting = self._cost.prompt_tokens(decoding, self._limits.stretch)
        return None if fitting is None else max(fitting, FEWEST_PROMPT_TOKENS)

    def _promote(self) -> bool:
        """Bring back from disk what the next request begins with; False as long as that is on its way."""
        if self._disk is None:
            return True
        with self._wake:
            following, idle = self._scheduler.next_to_admit(), not self._scheduler.running
            if following is not None and not following.sought:
                following.sought = True
                digests, known = following.table.prefix(following.tokens)
                self._disk.promote(digests, known, self._scheduler.spare_pages() - known)
        came = self._disk.promoted(PROMOTION_POLL_SECONDS if idle else 0.0)
        self._counts.pages_from_disk += came or 0
        return came is not None

    def _has_something_to_do(self) -> bool:
        promoting = self._disk is not None and self._disk.promoting  # maybe for a request that is over: let them go
        busy = promoting or self._scheduler.running or self._scheduler.waiting
        return bool(self._closing or self._cancelled or self._tasks or busy)

    def _step(self, plan: StepPlan[ActiveRequest]) -> None:
        work = plan.work
        starts = [(sequence, sequence.computed) for sequence, _ in work]
        try:
            sampled = self._compute(plan)
        except Exception as error:
            log.exception("a step failed; its %d requests end with an error", len(work))
            self._note_failure(error)
            self._end([(sequence, "error", _describe(error)) for sequence, _ in work])
            return
        with self._wake:
            self._scheduler.commit(plan)
            self._failed_in_a_row, self._failure = 0, None
        endings = [self._advance(one) for one in sampled]
        self._end([ending for ending in endings if ending is not None])
        self._speculator.ask_modules(starts)

    def _compute(self, plan: StepPlan[ActiveRequest]) -> list[Sampled]:
        """Run the model and choose tokens for each sequence whose last token ran."""
        steps: list[SequenceStep] = []
        sampling: list[tuple[ActiveSequence, Sequence[int]]] = []
        scoring: list[tuple[int, PromptScores]] = []
        for sequence, count in plan.work:
            sequence.owner.start()
            last, draft = count == sequence.remaining, plan.draft_of(sequence)
            tokens = [*sequence.tokens[sequence.computed : sequence.computed + count], *draft]
            adapter = sequence.owner.adapter.number if sequence.owner.adapter else None
            scores = sequence.owner.prompt_scores
            scored = scores.rows(sequence.computed, count) if scores is not None else 0
            logits_from = 0 if scored else count - last
            steps.append(SequenceStep(tokens, sequence.computed, sequence.table.pages, logits_from, adapter))
            if scores is not None:
                scoring.append((len(steps) - 1, scores))
            if last:
                sampling.append((sequence, draft))
        began = time.perf_counter()
        logits_BV = self._runner.step(steps)
        rows = sum(len(step.tokens) for step in steps)
        self._count_step(rows, time.perf_counter() - began)
        if scoring:
            logits_BV = _without_scored(logits_BV, steps, dict(scoring))
        for sequence, _ in sampling:
            sequence.owner.finish_prompt()
        states = [state for sequence, draft in sampling for state in sequence.owner.sampling.along(draft)]
        _check_rows(logits_BV, len(states))
        choices = iter(sample(logits_BV, states) if states else [])
        prompt_tokens = sum(step.logits_from for step in steps)
        self._cost.observe(rows - prompt_tokens, prompt_tokens, time.perf_counter() - began)
        return [Sampled(sequence, draft, list(islice(choices, 1 + len(draft)))) for sequence, draft in sampling]

    def _advance(self, sampled: Sampled) -> Ending | None:
        """Give a sequence its token, and further ones as long as its draft foresaw them; how it ends, if it does."""
        sequence, draft = sampled.sequence, sampled.draft
        ending, taken, accepted = None, 0, 0
        for index, choice in enumerate(sampled.choices):
            ending = self._take(sequence, choice)
            taken += choice is not None
            foreseen = choice is not None and index < len(draft) and sequence.tokens[-1] == draft[index]
            accepted += foreseen
            if ending is not None or not foreseen or sequence.owner.steered:
                break
        if draft:
            sequence.owner.sampling.give_back(len(sampled.choices) - taken)
            self._count_draft(sequence, draft, accepted, taken)
        return ending

    def _take(self, sequence: ActiveSequence, choice: TokenChoice | None) -> Ending | None:
        """Give a sequence one token."""
        if choice is None:
            constraint = sequence.owner.sampling.constraint
            why = constraint.failure if constraint is not None else None
            return sequence, "error", why or "the model's output is not finite (NaN or infinite)"
        try:
            reason = sequence.owner.take(choice, sequence)
        except Exception as error:
            log.exception("a token could not be turned into events; the request ends with an error")
            return sequence, "error", _describe(error)
        if sequence.owner.cancelled:
            reason = "cancelled"
        return None if reason is None else (sequence, reason, None)

    def _count_draft(self, sequence: ActiveSequence, draft: Sequence[int], accepted: int, taken: int) -> None:
        """Note how a draft fared. Of the tokens taken all but the last are in the cache."""
        with self._wake:
            self._scheduler.accept(sequence, max(0, min(taken - 1, accepted)))
            self._counts.drafts += 1
            self._counts.drafted_tokens += len(draft)
            self._counts.accepted_tokens += accepted
        self._speculator.observe_draft(sequence.owner, accepted)

    def _end(self, endings: Sequence[Ending]) -> None:
        """Free the pages of requests that are over, then tell them."""
        if not endings:
            return
        with self._wake:
            for sequence, reason, _ in endings:
                self._scheduler.remove(sequence)
                self._counts.finish(reason, sequence.prompt_tokens, sequence.cached_tokens or 0, len(sequence.tokens))
                sequence.owner.over = True
                if sequence.owner.adapter is not None:
                    self._adapters.release(sequence.owner.adapter)
        for sequence, reason, error in endings:
            sequence.owner.end(reason, sequence, error)

    def _count_step(self, tokens: int, seconds: float) -> None:
        self._counts.steps += 1
        self._counts.computed_tokens += tokens
        self._counts.step_seconds += seconds

    def _note_failure(self, error: Exception) -> None:
        self._counts.failed_steps += 1
        self._failed_in_a_row += 1
        if self._failed_in_a_row >= FAILED_STEPS_UNTIL_UNHEALTHY:
            self._failure = f"the last {self._failed_in_a_row} steps failed: {_describe(error)}"


def _check_rows(logits_BV: Logits, rows: int) -> None:
    if len(logits_BV) != rows:
        raise EngineError(f"the runner returned {len(logits_BV)} rows of logits for {rows} that were asked for")


def _without_scored(logits_BV: Logits, steps: Sequence[SequenceStep], scoring: Mapping[int, PromptScores]) -> Logits:
    """Hand the rows behind a prompt's tokens to those who asked for them; the rest, from which tokens are chosen."""
    kept: list[Logits] = []
    at = 0
    for index, step in enumerate(steps):
        rows_TV = logits_BV[at : at + len(step.tokens) - step.logits_from]
        at += len(rows_TV)
        scored = 0
        if (scores := scoring.get(index)) is not None:
            scored = scores.rows(step.start, len(step.tokens))
            scores.observe(step.start, rows_TV[:scored])
        kept.append(rows_TV[scored:])
    return arrays_of(logits_BV).joined(kept)


def _run_task(task: Callable[[], None], done: "Future[None]") -> None:
    try:
        task()
    except Exception as error:  # noqa: BLE001 - raised in the thread that waits for it
        done.set_exception(error)
    else:
        done.set_result(None)


def _describe(error: Exception) -> str:
    return f"{type(error).__name__}: {error}"
