"""How much of each source a pass holds, and in what order its rows come: computed row by row, never stored.

A pass is the unit after which the order is drawn anew. Without weights a source is seen `epochs` times in it. With
weights a pass is as long as the scarcest source allows at its `epochs`, and each source has its share of the tokens.
"""

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate

from fathom.data.errors import DataError
from fathom.data.permutation import Permutation, key_of


@dataclass(frozen=True, slots=True)
class Ingredient:
    """A source as the mixture sees it."""

    name: str
    tokens: int
    epochs: float
    weight: float | None


def rows_in_pass(ingredients: Sequence[Ingredient], sequence_length: int) -> list[int]:
    """Rows of `sequence_length` tokens that each source gives to a pass; raises DataError where one is too small."""
    budgets = [ingredient.tokens * ingredient.epochs for ingredient in ingredients]
    weights = [ingredient.weight for ingredient in ingredients if ingredient.weight is not None]
    if weights:
        total = min(budget * sum(weights) / weight for budget, weight in zip(budgets, weights, strict=True))
        budgets = [total * weight / sum(weights) for weight in weights]
    rows = [int(budget + 1e-6) // sequence_length for budget in budgets]
    for ingredient, count in zip(ingredients, rows, strict=True):
        if not count:
            raise DataError(
                f"the source {ingredient.name!r} gives less than one row of {sequence_length} tokens to a pass "
                f"({ingredient.tokens:,} tokens): raise its epochs or weight, shorten the rows, or leave it out"
            )
    return rows


@dataclass(frozen=True)
class Row:
    """One row: which source, and where in its endless stream the row begins."""

    source: int
    start: int


@dataclass(frozen=True)
class Schedule:
    """Says which row is the n-th, for any n from 0 without end. Rows of a source lie end to end in its stream:
    pass p of a source with k rows is its rows p * k to p * k + k - 1, in shuffled order.
    """

    rows: tuple[int, ...]
    sequence_length: int
    seed: int
    shuffle: bool = True

    @cached_property
    def rows_per_pass(self) -> int:
        """Rows of all sources in a pass."""
        return sum(self.rows)

    @cached_property
    def _starts(self) -> list[int]:
        return list(accumulate(self.rows, initial=0))

    def row(self, number: int) -> Row:
        """The n-th row of the training run."""
        number_of_pass, place = divmod(number, self.rows_per_pass)
        if self.shuffle:
            place = Permutation(self.rows_per_pass, key_of(self.seed, number_of_pass))(place)
        source = bisect_right(self._starts, place) - 1
        row = number_of_pass * self.rows[source] + place - self._starts[source]
        return Row(source, row * self.sequence_length)
