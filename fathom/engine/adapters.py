"""Adapters beside the base model: which weights take one, their versions, and who uses which.

An update while requests run makes a new version; those requests keep the old one, which goes with the last of them.
Every version salts its prefixes with a name of its own, so pages computed under other weights are never reused, not
even by a process that starts later.
"""

import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import count

from fathom.engine.errors import InvalidRequestError
from fathom.engine.runner import Runner
from fathom.models.adapter import Adapter

Shapes = Mapping[str, tuple[int, int]]


def check_adapter(adapter: Adapter, shapes: Shapes) -> None:
    """Raise InvalidRequestError, by name, unless every pair fits a weight [rows, columns] of `shapes`."""
    if not adapter.pairs:
        raise InvalidRequestError("the adapter is empty; give it at least one pair of matrices")
    for name, (down, up) in adapter.pairs.items():
        if name not in shapes:
            known = ", ".join(sorted({known.rpartition(".")[2] for known in shapes}))
            raise InvalidRequestError(
                f"the adapter changes {name}, which takes none here (of the main model's layers these do: {known}); "
                "train without it, or merge the adapter into the weights"
            )
        rows, columns = shapes[name]
        rank = down.shape[0]
        if tuple(down.shape) != (rank, columns) or tuple(up.shape) != (rows, rank) or rank < 1:
            raise InvalidRequestError(
                f"the adapter's matrices for {name} are {tuple(down.shape)} and {tuple(up.shape)}, expected "
                f"(rank, {columns}) and ({rows}, rank)"
            )


@dataclass(slots=True, eq=False)
class AdapterVersion:
    """One state of an adapter's weights in the runner, under `number`; `users` are requests that are not over."""

    number: int
    salt: str
    users: int = 0

    def salted(self, salt: str | None) -> str:
        """The salt of a request's prefixes under these weights."""
        return f"{salt or ''}\0{self.salt}"


class AdapterTable:
    """Names to versions. Its `put`, `remove` and `release` call the runner and belong to the engine's thread.

    The engine holds its lock around `use`, `begin_put` and `release`, never around `put`.
    """

    def __init__(self, runner: Runner) -> None:
        self._runner = runner
        self._current: dict[str, AdapterVersion] = {}
        self._numbers = count()
        self._free: list[int] = []

    @property
    def names(self) -> tuple[str, ...]:
        """The adapters that requests may name."""
        return tuple(self._current)

    def use(self, name: str) -> AdapterVersion:
        """Count one request more for an adapter; raises InvalidRequestError when there is none of this name."""
        version = self._current.get(name)
        if version is None:
            known = ", ".join(self._current) or "none"
            raise InvalidRequestError(f"there is no adapter {name!r}; loaded are {known}")
        version.users += 1
        return version

    def release(self, version: AdapterVersion) -> None:
        """Count one request less; the last one of a version that was replaced or removed takes it along."""
        version.users -= 1
        if not version.users and version not in self._current.values():
            self._drop(version)

    def put(self, name: str, adapter: Adapter) -> None:
        """Load new weights for a name: in place where nobody uses the old ones. On an error the old ones stay."""
        old = self._current.get(name)
        in_place = old is not None and not old.users
        number = old.number if old is not None and in_place else self._new_number()
        new = self._current[name] = AdapterVersion(number, secrets.token_hex(8))
        try:
            self._runner.set_adapter(number, adapter)
        except Exception:
            if old is None:
                del self._current[name]
            else:
                self._current[name] = old
            if not in_place and not new.users:
                self._free.append(number)
            raise

    def remove(self, name: str) -> None:
        """Take a name away; requests that use it go on."""
        version = self._current.pop(name)
        if not version.users:
            self._drop(version)

    def _drop(self, version: AdapterVersion) -> None:
        self._runner.drop_adapter(version.number)
        self._free.append(version.number)

    def _new_number(self) -> int:
        return self._free.pop() if self._free else next(self._numbers)
