"""Who calls, what they may, and the meter of each call."""

import logging
import threading
import time
import uuid
from collections import Counter
from collections.abc import Callable
from contextvars import ContextVar
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sqlalchemy.exc import SQLAlchemyError

from fathom.costs.prices import PICODOLLARS, rate
from fathom.server.accounts import keys
from fathom.server.accounts.database import open_database
from fathom.server.accounts.keys import Key
from fathom.server.accounts.ledger import Call, Ledger, tokens_used
from fathom.server.errors import ApiError

if TYPE_CHECKING:
    from fathom.engine.request import Finished

log = logging.getLogger("fathom.server")

CALLER: ContextVar[Key | None] = ContextVar("caller", default=None)  # set by the guard for the request at hand

Deliver = Callable[[ApiError | None], None]


class Accounts:
    """Keys and ledger of a running server."""

    def __init__(self, place: Path | str, plan: str) -> None:
        rate(plan, datetime.now(UTC))  # an unknown plan shows now, not at the first answer
        self._database = open_database(place)
        self.ledger = Ledger(self._database, plan)
        self._running: Counter[str] = Counter()  # calls under way, by the key's name
        self._lock = threading.Lock()

    def find(self, given: str) -> Key | None:
        """The live key that was given."""
        return keys.find(self._database, given)

    def need_key(self) -> bool:
        """Whether keys are in use."""
        return keys.any_made(self._database)

    def open_meter(self, model: str, choices: int, prompts: int = 1) -> "Meter":
        """The meter of a call by the present caller: so many choices, as many for each of its prompts.

        Raises ApiError 429 or 402 where its key's limits are reached.
        """
        caller = CALLER.get()
        if caller is not None:
            _check_spent(caller)
        name = caller.name if caller is not None else ""
        with self._lock:
            most = caller.max_concurrent if caller is not None else None
            if most is not None and self._running[name] >= most:
                raise ApiError(
                    429, f"Rate Limit Reached: the key {name!r} has {most} calls under way already", retry_after=1
                )
            self._running[name] += 1
        return Meter(self, name, model, choices, choices // prompts)

    def tokens_used(self, name: str, since: float) -> int:
        """All tokens that a key or user has used since a time."""
        return tokens_used(self._database, name, since)

    def leave(self, name: str) -> None:
        """A call of this key has ended."""
        with self._lock:
            self._running[name] -= 1

    def balance(self) -> dict[str, Any]:
        """DeepSeek's /user/balance for the present caller; a key without a limit of spend has no balance to tell."""
        caller = CALLER.get()
        if caller is None or caller.allowed_picodollars is None:
            return {"is_available": True, "balance_infos": []}
        granted, topped_up = caller.granted_left, caller.topped_up_left
        info = {
            "currency": "USD",
            "total_balance": _amount(granted + topped_up),
            "granted_balance": _amount(granted),
            "topped_up_balance": _amount(topped_up),
        }
        return {"is_available": granted + topped_up > 0, "balance_infos": [info]}

    def close(self) -> None:
        """Write what still waits."""
        self.ledger.close()


def _amount(picodollars: int) -> str:
    return f"{picodollars / PICODOLLARS:.6f}"


def _check_spent(key: Key) -> None:
    if key.allowed_picodollars is not None and key.granted_left + key.topped_up_left <= 0:
        raise ApiError(
            402,
            f"Insufficient Balance: the key {key.name!r} has spent what it may; have it topped up (fathom keys top-up)",
        )
    if key.max_tokens is not None and key.spent_tokens >= key.max_tokens:
        raise ApiError(429, f"Rate Limit Reached: the key {key.name!r} has used its {key.max_tokens} tokens")


class Meter:
    """Counts one call until its last choice has ended, then has it written once.

    `finish` may come from the engine's thread, also after the client and its request have gone.
    """

    def __init__(self, accounts: Accounts, key: str, model: str, choices: int, choices_each: int) -> None:
        self._choices_each = choices_each
        self._accounts, self._key, self._model = accounts, key, model
        self._expected = choices
        self._finished: list[Finished] = []
        self._lock = threading.Lock()
        self._at, self._began = time.time(), time.monotonic()

    def finish(self, finished: "Finished", deliver: Deliver) -> None:
        """A choice has ended; `deliver` is called when that may be told: of the last one, once the row is written."""
        with self._lock:
            self._finished.append(finished)
            last = len(self._finished) == self._expected
        if last:
            self._record(deliver)
        else:
            deliver(None)

    def expect(self, choices: int) -> None:
        """Only so many choices were taken by the engine; the rest was refused."""
        with self._lock:
            self._expected = choices
            complete = len(self._finished) == choices
        if choices == 0:
            self._accounts.leave(self._key)
        elif complete:
            self._record(lambda _: None)

    def _record(self, deliver: Deliver) -> None:
        def written(error: SQLAlchemyError | None) -> None:
            self._accounts.leave(self._key)
            if error is not None:
                log.error("call %s could not be written to the ledger: %s", call.id, error)
            deliver(None if error is None else ApiError(500, "The server could not account for this answer"))

        call = self._call()
        self._accounts.ledger.record(call, written)

    def _call(self) -> Call:
        # What left the queue without a step cost nothing. A prompt counts once, however many choices were asked for.
        usages = [finished.usage for finished in self._finished if finished.timings.queue_seconds is not None]
        if len(usages) <= self._choices_each:
            hit = max((usage.cached_tokens for usage in usages), default=0)
            miss = max((usage.prompt_tokens for usage in usages), default=0) - hit
        else:
            hit = sum(usage.cached_tokens for usage in usages) // self._choices_each
            miss = sum(usage.prompt_tokens for usage in usages) // self._choices_each - hit
        output = sum(usage.completion_tokens for usage in usages)
        plan = self._accounts.ledger.plan
        return Call(
            id=uuid.uuid4().hex,
            at=self._at,
            key=self._key,
            model=self._model,
            reason=self._finished[-1].reason,
            hit=hit,
            miss=miss,
            thought=sum(usage.thought_tokens for usage in usages),
            output=output,
            seconds=time.monotonic() - self._began,
            plan=plan,
            picodollars=rate(plan, datetime.fromtimestamp(self._at, UTC)).cost(hit, miss, output),
        )
