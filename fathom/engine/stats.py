"""What the engine says about itself, and the bounds it keeps."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class EngineLimits:
    """Bounds of an engine.

    Attributes:
        max_step_tokens: token budget of one step. Larger steps prefill faster, smaller ones let decodes wait less.
        max_running: most sequences that run at once.
        max_queued_requests: most requests that wait; more raise QueueFull.
        max_queued_tokens: most prompt tokens that wait, all requests together; more raise QueueFull. One request of
            any length may always wait.
        stretch: how many times as long as a step that only decodes a step with prompts may take; 0: no bound.

    """

    max_step_tokens: int = 256
    max_running: int = 64
    max_queued_requests: int = 512
    max_queued_tokens: int = 1_000_000
    stretch: float = 2.5


@dataclass(slots=True)
class Counts:
    """Totals since the engine was made. Tokens of prompts and outputs are counted when a request ends."""

    requests: int = 0
    finished: Counter[str] = field(default_factory=Counter)  # by finish reason
    prompt_tokens: int = 0
    cached_tokens: int = 0
    generated_tokens: int = 0
    computed_tokens: int = 0  # tokens that went through the model, recomputed ones included
    steps: int = 0
    failed_steps: int = 0
    step_seconds: float = 0.0  # inside the runner
    pages_from_disk: int = 0
    drafts: int = 0  # verified, of one sequence in one step
    drafted_tokens: int = 0
    accepted_tokens: int = 0

    def finish(self, reason: str, prompt_tokens: int, cached_tokens: int, all_tokens: int) -> None:
        """Count a request that is over."""
        self.finished[reason] += 1
        self.prompt_tokens += prompt_tokens
        self.cached_tokens += cached_tokens
        self.generated_tokens += all_tokens - prompt_tokens


@dataclass(frozen=True, slots=True)
class Load:
    """How busy an engine is. Pages that are neither held nor cached are free; cached ones count as room too."""

    healthy: bool
    failure: str | None
    running: int
    waiting: int
    waiting_tokens: int
    pages: int
    pages_held: int
    pages_cached: int
    preemptions: int
    counts: Counts


@dataclass(frozen=True, slots=True)
class EngineStats:
    """A snapshot of an engine; `policy` says in words what was chosen for this machine, and why."""

    model: str
    runner: str
    max_tokens: int
    page_tokens: int
    bytes_per_page: int
    policy: Mapping[str, str]
    limits: EngineLimits
    load: Load
