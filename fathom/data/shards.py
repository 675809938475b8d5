"""Shards: files of plain little-endian token ids with the offsets of their documents beside them, and one index.

index.json                    what there is; written last, so a folder without it is not finished
train/NAME-00000.tokens       uint16 (up to 65,536 tokens in the vocabulary) or uint32
train/NAME-00000.offsets.npy  int64 [documents + 1]: document d is tokens[offsets[d]:offsets[d + 1]]
validation/...
tokenizer/                    a copy of the tokenizer, so that a model trained on this knows it
card.md, card.json            what the data are
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from fathom.data.errors import ShardError
from fathom.data.files import atomic_file, read_json, write_array, write_json
from fathom.data.pieces import Piece
from fathom.data.tokenising import SPLITS
from fathom.data.typed import from_table
from fathom.data.workshop import Workshop

INDEX = "index.json"
FORMAT = "fathom-shards"
VERSION = 1


@dataclass(frozen=True, slots=True)
class Shard:
    """One file of tokens. `file` is its path within the folder, without the suffix."""

    file: str
    tokens: int
    documents: int
    sha256: str


@dataclass(frozen=True, slots=True)
class IndexedSource:
    """One source's shards and its part in the mixture."""

    name: str
    epochs: float
    train: tuple[Shard, ...]
    validation: tuple[Shard, ...]
    weight: float | None = None


@dataclass(frozen=True, slots=True)
class Index:
    """What a folder of shards holds. `dtype`: `uint16` or `uint32`."""

    format: str
    version: int
    dtype: str
    vocab_size: int
    tokenizer_sha256: str
    sources: tuple[IndexedSource, ...]
    begin_id: int | None = None
    end_id: int | None = None

    def tokens(self, split: str) -> int:
        """All tokens of a split."""
        return sum(shard.tokens for source in self.sources for shard in getattr(source, split))


def read_index(folder: Path) -> Index:
    """Read and check the index; raises ShardError for a folder that is not finished or of another version."""
    file = folder / INDEX
    if not file.is_file():
        unfinished = " (unfinished: run `fathom data prepare` again, it goes on)" if (folder / ".work").is_dir() else ""
        raise ShardError(f"{folder} holds no {INDEX}{unfinished}; make shards with `fathom data prepare RECIPE`")
    table: dict[str, Any] = {key: value for key, value in read_json(file).items() if value is not None}
    if table.get("format") != FORMAT or table.get("version") != VERSION:
        raise ShardError(f"{file} is not of format {FORMAT} version {VERSION}; prepare the data again")
    for source in table["sources"]:
        if source.get("weight") is None:
            source.pop("weight", None)
    return from_table(Index, table, str(file))


@dataclass(frozen=True, slots=True)
class ShardPlan:
    """One shard to be: consecutive pieces of one source."""

    split: str
    name: str
    pieces: tuple[Piece, ...]


def plan_shards(workshop: Workshop, pieces: Sequence[Piece], item_bytes: int) -> list[ShardPlan]:
    """Group the encoded pieces of each source into shards of about the recipe's size; empty ones are left out."""
    limit = workshop.recipe.shard_megabytes * 1e6 / item_bytes
    sizes = {piece.number: read_json(workshop.tokens(piece, "json")) for piece in pieces}
    plans: list[ShardPlan] = []
    for split in SPLITS:
        for number, source in enumerate(workshop.recipe.sources):
            groups: list[list[Piece]] = []
            filled = limit
            for piece in (piece for piece in pieces if piece.source == number):
                tokens = sizes[piece.number][split]["tokens"]
                if not tokens:
                    continue
                if filled >= limit:
                    groups.append([])
                    filled = 0
                groups[-1].append(piece)
                filled += tokens
            plans += [
                ShardPlan(split, f"{source.name}-{count:05d}", tuple(group)) for count, group in enumerate(groups)
            ]
    return plans


def write_shard(workshop: Workshop, plan: ShardPlan) -> None:
    """Join the pieces of a shard; the note, written last, says that it is complete."""
    base = workshop.output / plan.split / plan.name
    checksum = hashlib.sha256()
    with atomic_file(base.with_name(f"{plan.name}.tokens")) as file:
        for piece in plan.pieces:
            content = workshop.tokens(piece, f"{plan.split}.tokens").read_bytes()
            checksum.update(content)
            file.write(content)
    lengths = [np.load(workshop.tokens(piece, f"{plan.split}.lengths.npy")) for piece in plan.pieces]
    offsets = np.concatenate([np.zeros(1, dtype=np.int64), np.cumsum(np.concatenate(lengths), dtype=np.int64)])
    write_array(base.with_name(f"{plan.name}.offsets.npy"), offsets)
    write_json(
        workshop.shard_note(plan.split, plan.name),
        {
            "file": f"{plan.split}/{plan.name}",
            "tokens": int(offsets[-1]),
            "documents": len(offsets) - 1,
            "sha256": checksum.hexdigest(),
        },
    )
