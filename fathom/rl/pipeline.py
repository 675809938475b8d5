"""Batches of rollouts in order, drawn beside the learning by a thread of its own, at most so many steps ahead.

One batch is drawn after another, each alone on the sampler, so the same requests always run in the same batches: what
is drawn depends on which policy was given, never on how fast the learner was.
"""

from collections import deque
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor

from fathom.rl.collector import Collected, Collector
from fathom.rl.samplers import Policy, Sampler


class Pipeline:
    """Requested batches come out of `take` in the order in which they were requested.

    Args:
        collector: draws batches.
        sampler: is given each batch's policy.
        ready: batches that were drawn already, by an earlier process of the run.

    """

    def __init__(self, collector: Collector, sampler: Sampler, ready: Sequence[Collected] = ()) -> None:
        self._collector, self._sampler = collector, sampler
        self._thread = ThreadPoolExecutor(1, "rollouts")
        self._given: int | None = None
        self._batches: deque[Future[Collected]] = deque()
        for collected in ready:
            self._batches.append(Future())
            self._batches[-1].set_result(collected)

    def __len__(self) -> int:
        """Batches that were requested and not taken."""
        return len(self._batches)

    def request(self, version: int, policy: Policy) -> None:
        """Have one more batch drawn, from this policy."""
        self._batches.append(self._thread.submit(self._collect, version, policy))

    def take(self) -> Collected:
        """The next batch; waits for it. Raises what drawing it raised."""
        return self._batches.popleft().result()

    def settle(self) -> list[Collected]:
        """Wait for everything requested; it stays to be taken."""
        return [batch.result() for batch in self._batches]

    def close(self) -> None:
        """End the thread, after the batch that it draws."""
        self._thread.shutdown(cancel_futures=True)

    def _collect(self, version: int, policy: Policy) -> Collected:
        if version != self._given:  # the same weights are not sent twice
            self._sampler.set_policy(version, policy)
            self._given = version
        return self._collector.collect(version)
