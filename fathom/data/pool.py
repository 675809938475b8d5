"""The same work over any number of processes, with a progress bar; what is done already is not done again."""

import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from typing import Protocol, TypeVar

from tqdm import tqdm  # type: ignore[import-untyped]

from fathom.data.errors import DataError

Item = TypeVar("Item")


class Worker(Protocol):
    """Does one item of a kind of work."""

    def do(self, kind: str, item: object) -> None:
        """Do it and keep the result on disk."""


class Pool:
    """Runs a worker here (one process) or in several, each with a worker of its own that `make` builds."""

    def __init__(self, make: Callable[[], Worker], processes: int, *, progress: bool) -> None:
        self._local = make() if processes == 1 else None
        self._progress = progress
        self._executor: ProcessPoolExecutor | None = None
        if processes > 1:
            self._executor = ProcessPoolExecutor(
                processes, multiprocessing.get_context("spawn"), initializer=_begin, initargs=(make,)
            )

    def run(self, kind: str, items: Sequence[Item], is_done: Callable[[Item], bool], unit: str) -> None:
        """Do all items that are not done; the first error stops the rest and is raised."""
        todo = [item for item in items if not is_done(item)]
        with tqdm(
            total=len(items), initial=len(items) - len(todo), desc=f"{kind:<9}", unit=unit, disable=not self._progress
        ) as bar:
            for _ in self._results(kind, todo):
                bar.update()

    def _results(self, kind: str, todo: Sequence[Item]) -> Iterator[None]:
        if self._local is not None:
            for item in todo:
                self._local.do(kind, item)
                yield
        elif self._executor is not None:
            try:
                for future in as_completed([self._executor.submit(_do, kind, item) for item in todo]):
                    yield future.result()
            except BrokenProcessPool as error:
                raise DataError(
                    "a process was killed, most likely for want of memory: run again (it goes on from here) with fewer "
                    "--processes, or with a smaller piece_megabytes"
                ) from error

    def close(self) -> None:
        """Let the processes end after what they are at."""
        if self._executor is not None:
            self._executor.shutdown(wait=True, cancel_futures=True)


@contextmanager
def pool(make: Callable[[], Worker], processes: int, *, progress: bool) -> Iterator[Pool]:
    """A pool that is closed at the end, also after an error or Ctrl-C."""
    opened = Pool(make, processes, progress=progress)
    try:
        yield opened
    finally:
        opened.close()


_worker: Worker | None = None


def _begin(make: Callable[[], Worker]) -> None:
    """In a new process: build its worker, leave Ctrl-C to the parent, and end when the parent does."""
    global _worker
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    _worker = make()


def _end_with_parent() -> None:
    """A killed parent (-9) leaves nobody to stop its children; they would wait for work for ever."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def _do(kind: str, item: object) -> None:
    if _worker is None:
        raise RuntimeError("this process was not started by a Pool")
    _worker.do(kind, item)
