"""A part of a recipe's text, spread over its sources and over their files, for training a tokenizer."""

from collections.abc import Iterator
from pathlib import Path

from fathom.data.cleaning import filter_fault
from fathom.data.normalise import normalise
from fathom.data.pieces import Piece, plan_pieces
from fathom.data.reading import read_part
from fathom.data.recipe import Recipe, Source

_PIECE_BYTES = 1 << 20


def sample_recipe(recipe: Recipe, base: Path, limit: float) -> Iterator[str]:
    """Texts of all sources that pass the recipe's filters, about `limit` bytes in all.

    A source's part is that of its weight, or else of its size; within a source pieces are taken evenly from first to
    last. The same files give the same texts.
    """
    pieces = plan_pieces(recipe.sources, base, _PIECE_BYTES)
    by_source = [[piece for piece in pieces if piece.source == number] for number in range(len(recipe.sources))]
    shares = [
        source.weight if source.weight is not None else source.epochs * len(found)
        for source, found in zip(recipe.sources, by_source, strict=True)
    ]
    for source, found, share in zip(recipe.sources, by_source, shares, strict=True):
        yield from _sample(recipe, source, found, limit * share / sum(shares))


def _sample(recipe: Recipe, source: Source, pieces: list[Piece], limit: float) -> Iterator[str]:
    wanted = max(1, min(len(pieces), round(limit / _PIECE_BYTES)))
    per_piece = limit / wanted
    for number in range(wanted):
        taken = 0
        for text in _texts(recipe, source, pieces[number * len(pieces) // wanted]):
            if taken >= per_piece:
                break
            yield text
            taken += len(text.encode())


def _texts(recipe: Recipe, source: Source, piece: Piece) -> Iterator[str]:
    for part in piece.parts:
        for raw in read_part(source, part):
            text = normalise(raw) if raw is not None else ""
            if text.strip() and filter_fault(text, source, recipe.quality) is None:
                yield text
