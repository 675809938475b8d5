"""Counters and histograms in Prometheus' text form, under the names that vLLM's users know, with our prefix.

Source: https://prometheus.io/docs/instrumenting/exposition_formats/ (text format 0.0.4).
"""

from collections import defaultdict
from collections.abc import Iterable, Mapping

_SECONDS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0)


class Histogram:
    """Observations counted in cumulative buckets."""

    def __init__(self, bounds: Iterable[float] = _SECONDS) -> None:
        self.bounds = tuple(bounds)
        self.counts = [0] * len(self.bounds)
        self.total = 0
        self.sum = 0.0

    def observe(self, value: float) -> None:
        """Add one observation."""
        self.total += 1
        self.sum += value
        for index, bound in enumerate(self.bounds):
            self.counts[index] += value <= bound

    def lines(self, name: str) -> list[str]:
        """Its samples."""
        buckets = [
            f'{name}_bucket{{le="{bound:g}"}} {count}' for bound, count in zip(self.bounds, self.counts, strict=True)
        ]
        return [
            *buckets,
            f'{name}_bucket{{le="+Inf"}} {self.total}',
            f"{name}_sum {self.sum:.6f}",
            f"{name}_count {self.total}",
        ]


class Metrics:
    """What the server counts itself; the engine's own numbers are asked for at the time of writing."""

    def __init__(self) -> None:
        self.responses: defaultdict[int, int] = defaultdict(int)  # by status code
        self.finished: defaultdict[str, int] = defaultdict(int)  # by finish reason, "aborted" among them
        self.prompt_tokens = 0
        self.cached_tokens = 0
        self.generation_tokens = 0
        self.first_token = Histogram()
        self.duration = Histogram()

    def finish(self, reason: str, prompt_tokens: int, cached_tokens: int, completion_tokens: int) -> None:
        """Count a finished choice."""
        self.finished[reason] += 1
        self.prompt_tokens += prompt_tokens
        self.cached_tokens += cached_tokens
        self.generation_tokens += completion_tokens

    def text(
        self, gauges: Mapping[str, tuple[str, float]], counters: Mapping[str, tuple[str, float]] | None = None
    ) -> str:
        """The whole page; `gauges` and `counters`, which are the engine's, map a name to (help, value)."""
        lines: list[str] = []
        for name, (about, value) in gauges.items():
            lines += _family(name, "gauge", about, [f"fathom_{name} {value:g}"])
        for name, (about, value) in (counters or {}).items():
            lines += _family(name, "counter", about, [f"fathom_{name} {value:.15g}"])
        by_status = [_sample("http_responses_total", "status", one, count) for one, count in self.responses.items()]
        lines += _family("http_responses_total", "counter", "Responses by status code.", by_status)
        by_reason = [_sample("request_success_total", "finished_reason", one, n) for one, n in self.finished.items()]
        lines += _family("request_success_total", "counter", "Choices by how they ended.", by_reason)
        for name, about, value in (
            ("prompt_tokens_total", "Prompt tokens, cached ones included.", self.prompt_tokens),
            ("prefix_cache_hits_total", "Prompt tokens found in the prefix cache.", self.cached_tokens),
            ("generation_tokens_total", "Tokens generated.", self.generation_tokens),
        ):
            lines += _family(name, "counter", about, [f"fathom_{name} {value}"])
        for name, about, histogram in (
            ("time_to_first_token_seconds", "From admission to the first event.", self.first_token),
            ("e2e_request_latency_seconds", "From admission to the end.", self.duration),
        ):
            lines += _family(name, "histogram", about, histogram.lines(f"fathom_{name}"))
        return "\n".join(lines) + "\n"


def _sample(name: str, label: str, value: object, count: int) -> str:
    return f'fathom_{name}{{{label}="{value}"}} {count}'


def _family(name: str, kind: str, about: str, samples: list[str]) -> list[str]:
    return [f"# HELP fathom_{name} {about}", f"# TYPE fathom_{name} {kind}", *samples]
