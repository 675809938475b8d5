"""Where unfinished work lies: one folder inside the output, with results of pieces that are whole or not there."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fathom.data.deduplication import Fate
from fathom.data.files import read_json
from fathom.data.pieces import Piece
from fathom.data.recipe import Recipe, Source

EXAMPLES = 3
EXAMPLE_CHARACTERS = 160


@dataclass(frozen=True, slots=True)
class Workshop:
    """What every process needs to know: the recipe, the folder its paths start from, and the output folder."""

    recipe: Recipe
    base: Path
    output: Path

    @property
    def folder(self) -> Path:
        """The folder of unfinished work."""
        return self.output / ".work"

    def source_of(self, piece: Piece) -> Source:
        """The source a piece belongs to."""
        return self.recipe.sources[piece.source]

    def cleaned(self, piece: Piece, suffix: str) -> Path:
        """Files of the first stage: `jsonl` (texts), `digests.npy`, `signatures.npy`, and `json`, written last."""
        return self.folder / "clean" / f"{piece.name}.{suffix}"

    def tokens(self, piece: Piece, suffix: str) -> Path:
        """Files of the last stage: `SPLIT.tokens`, `SPLIT.lengths.npy`, and `json`, which is written last."""
        return self.folder / "tokens" / f"{piece.name}.{suffix}"

    def shard_note(self, split: str, name: str) -> Path:
        """Says that a shard is finished, and what it holds."""
        return self.folder / "shards" / f"{split}-{name}.json"

    @property
    def fates(self) -> Path:
        """What deduplication decided on every cleaned document, in order, uint8."""
        return self.folder / "fates.npy"

    def counts(self, piece: Piece) -> dict[str, Any]:
        """What cleaning counted in a piece."""
        counts: dict[str, Any] = read_json(self.cleaned(piece, "json"))
        return counts


@dataclass(slots=True)
class Tally:
    """How many documents were dropped for which reason, with the first few as examples."""

    dropped: dict[str, int] = field(default_factory=dict)
    examples: dict[str, list[str]] = field(default_factory=dict)

    def drop(self, reason: str, text: str | None) -> None:
        """Count one document."""
        self.dropped[reason] = self.dropped.get(reason, 0) + 1
        shown = self.examples.setdefault(reason, [])
        if text and len(shown) < EXAMPLES:
            shown.append(" ".join(text[: 2 * EXAMPLE_CHARACTERS].split())[:EXAMPLE_CHARACTERS])

    def add(self, dropped: dict[str, int], examples: dict[str, list[str]]) -> None:
        """Take over another tally's counts."""
        for reason, count in dropped.items():
            self.dropped[reason] = self.dropped.get(reason, 0) + count
            shown = self.examples.setdefault(reason, [])
            shown.extend(examples.get(reason, [])[: EXAMPLES - len(shown)])


REASON_OF_FATE = {Fate.EXACT: "duplicate: exact", Fate.NEAR: "duplicate: near"}
