"""What tokens cost, as data: DeepSeek's history of prices with its windows of the day, and the peers of the time.

The data is `prices.toml`. Money is counted in whole picodollars (10^-12 USD), so that sums are exact: every price per
million tokens of the table is a whole number of them per token.
"""

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, time
from decimal import Decimal
from functools import cache
from importlib.resources import files
from typing import Any

PICODOLLARS = 10**12  # in a dollar
_PER_TOKEN = PICODOLLARS // 10**6  # picodollars per token, where a million tokens cost one dollar


class PriceError(ValueError):
    """There is no such price plan, or the table of prices is wrong."""


@dataclass(frozen=True, slots=True)
class Rate:
    """Picodollars per token: prompt found in the cache, prompt not found there, output with its thoughts."""

    hit: int
    miss: int
    output: int

    def cost(self, hit: int, miss: int, output: int) -> int:
        """Picodollars of so many tokens."""
        return self.hit * hit + self.miss * miss + self.output * output


@dataclass(frozen=True, slots=True)
class _Window:
    begins: time
    ends: time
    rate: Rate

    def holds(self, at: time) -> bool:
        if self.begins <= self.ends:
            return self.begins <= at < self.ends
        return at >= self.begins or at < self.ends


@dataclass(frozen=True, slots=True)
class _Period:
    begins: datetime
    rate: Rate
    windows: tuple[_Window, ...]


def plans() -> list[str]:
    """The names of all price plans."""
    return list(_table())


def rate(plan: str, at: datetime) -> Rate:
    """The prices of `plan` at a time with a zone; before its first price a plan has that first price.

    Raises:
        PriceError: no plan has this name.

    """
    try:
        periods = _table()[plan]
    except KeyError:
        raise PriceError(f"There is no price plan {plan!r}: take one of {', '.join(plans())}") from None
    at = at.astimezone(UTC)
    period = next((one for one in reversed(periods) if one.begins <= at), periods[0])
    return next((window.rate for window in period.windows if window.holds(at.time())), period.rate)


@cache
def _table() -> Mapping[str, list[_Period]]:
    table: dict[str, list[_Period]] = {}
    for entry in tomllib.loads(files("fathom.costs").joinpath("prices.toml").read_text(encoding="utf-8"))["rate"]:
        windows = tuple(_Window(one["from"], one["until"], _rate(one)) for one in entry.get("windows", ()))
        table.setdefault(entry["plan"], []).append(_Period(entry["from"], _rate(entry), windows))
    for periods in table.values():
        periods.sort(key=lambda period: period.begins)
    return table


def _rate(entry: Mapping[str, Any]) -> Rate:
    amounts = [Decimal(entry[name]) * _PER_TOKEN for name in ("hit", "miss", "output")]
    if any(amount % 1 or amount < 0 for amount in amounts):
        raise PriceError(f"prices.toml: {dict(entry)} is not a whole number of picodollars per token")
    return Rate(*map(int, amounts))
