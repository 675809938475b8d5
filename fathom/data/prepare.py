"""`fathom data prepare`: clean, deduplicate, encode, and join to shards; each step is resumable and deterministic.

Every result is a file that appears whole, so a run that was killed anywhere goes on where it stood. Work is cut by the
files alone and joined in their order, so the bytes do not depend on how many processes there were or when one died.
"""

import itertools
import os
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np

from fathom.data.card import make_card, write_card
from fathom.data.cleaning import Cleaner
from fathom.data.deduplication import Signature, choose
from fathom.data.errors import DataError
from fathom.data.files import digest_of, only_one, read_json, sha256_of, write_array, write_json
from fathom.data.fim import FillInMiddle
from fathom.data.pieces import Piece, plan_pieces
from fathom.data.pool import Pool, pool
from fathom.data.recipe import Recipe
from fathom.data.shards import FORMAT, INDEX, VERSION, ShardPlan, plan_shards, read_index, write_shard
from fathom.data.tokenising import SPLITS, DocumentEncoder, token_type
from fathom.data.workshop import Workshop

TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "chat_template.jinja")


@dataclass(frozen=True, slots=True)
class EncodeJob:
    """A piece, and where its documents begin in the list of fates."""

    piece: Piece
    first_document: int


class PrepareWorker:
    """Does any step of the preparation; one in every process."""

    def __init__(self, workshop: Workshop) -> None:
        self._workshop = workshop

    @cached_property
    def _cleaner(self) -> Cleaner:
        return Cleaner(self._workshop)

    @cached_property
    def _encoder(self) -> DocumentEncoder:
        return DocumentEncoder(self._workshop)

    def do(self, kind: str, item: object) -> None:
        """Clean a piece, encode a piece, or join pieces to a shard."""
        if isinstance(item, Piece):
            self._cleaner.clean(item)
        elif isinstance(item, EncodeJob):
            self._encoder.encode_piece(item.piece, item.first_document)
        elif isinstance(item, ShardPlan):
            write_shard(self._workshop, item)
        else:
            raise TypeError(f"{kind} takes no {type(item).__name__}")


def prepare(
    recipe: Recipe, base: Path, *, processes: int | None = None, overwrite: bool = False, progress: bool = False
) -> Path:
    """Make the recipe's shards (paths start from `base`) and return their folder; goes on after an interruption.

    Raises DataError (and its kinds) for recipes that cannot be followed, and where the folder already holds data from
    another recipe or from files that have changed since, unless `overwrite`.
    """
    workshop = Workshop(recipe, base.resolve(), base.resolve() / recipe.output)
    with only_one(workshop.folder):
        _Preparation(workshop, processes or os.cpu_count() or 1, progress).run(overwrite=overwrite)
        shutil.rmtree(workshop.folder)
    return workshop.output


class _Preparation:
    def __init__(self, workshop: Workshop, processes: int, progress: bool) -> None:
        self._workshop = workshop
        self._processes = processes
        self._progress = progress
        recipe = workshop.recipe
        self._pieces = plan_pieces(recipe.sources, workshop.base, max(1, int(recipe.piece_megabytes * 1e6)))
        encoder = DocumentEncoder(workshop)
        self._tokenizer = encoder.tokenizer  # fails here, before hours of cleaning, where the tokenizer does not fit
        if recipe.fim.rate:
            FillInMiddle.of(self._tokenizer)

    def run(self, *, overwrite: bool) -> None:
        if self._is_finished(overwrite):
            return
        with pool(partial(PrepareWorker, self._workshop), self._processes, progress=self._progress) as workers:
            self._clean(workers)
            self._deduplicate()
            self._encode(workers)
            plans = plan_shards(self._workshop, self._pieces, token_type(self._tokenizer.vocab_size).itemsize)
            workers.run("shards", plans, self._is_joined, "shard")
        self._finish(plans)

    def _is_finished(self, overwrite: bool) -> bool:
        """Whether the output is there already; clears away what an older, different run left."""
        output, note = self._workshop.output, self._workshop.output / ".prepared.json"
        fingerprint = self._fingerprint()
        same = note.is_file() and read_json(note) == fingerprint
        if (output / INDEX).is_file() and same and not overwrite:
            return True
        if (output / INDEX).is_file() and not overwrite:
            raise DataError(
                f"{output} already holds data from another recipe, or from files that have changed since: name another "
                "output, or pass --overwrite"
            )
        if not same or (output / INDEX).is_file():
            self._clear()
            write_json(note, fingerprint)
        return False

    def _fingerprint(self) -> dict[str, str]:
        """Names the recipe and the state of every file it reads."""
        recipe = self._workshop.recipe
        files = {part.file for piece in self._pieces for part in piece.parts}
        files |= {self._workshop.base / recipe.tokenizer / name for name in TOKENIZER_FILES}
        files |= {
            self._workshop.base / path for evaluation in recipe.decontaminate.evaluations for path in evaluation.paths
        }
        states = [[str(file), file.stat().st_size, file.stat().st_mtime_ns] for file in sorted(files) if file.is_file()]
        return {"recipe": digest_of(recipe.to_json()), "files": digest_of(states), "format": f"{FORMAT} {VERSION}"}

    def _clear(self) -> None:
        """Take away shards and unfinished work, and nothing else that may lie in the folder."""
        (self._workshop.output / INDEX).unlink(missing_ok=True)
        folders = [self._workshop.output / split for split in SPLITS]
        folders += [self._workshop.folder / name for name in ("clean", "tokens", "shards")]
        for folder in folders:
            shutil.rmtree(folder, ignore_errors=True)
        self._workshop.fates.unlink(missing_ok=True)

    def _clean(self, workers: Pool) -> None:
        workers.run("clean", self._pieces, lambda piece: self._workshop.cleaned(piece, "json").is_file(), "piece")

    def _deduplicate(self) -> None:
        if self._workshop.fates.is_file():
            return
        fates = np.fromiter(choose(self._signed_documents(), self._workshop.recipe.deduplicate), dtype=np.uint8)
        write_array(self._workshop.fates, fates)

    def _signed_documents(self) -> Iterator[tuple[bytes, Signature | None]]:
        for piece in self._pieces:
            digests = np.load(self._workshop.cleaned(piece, "digests.npy"))
            near = self._workshop.recipe.deduplicate.near
            signatures = np.load(self._workshop.cleaned(piece, "signatures.npy")) if near else itertools.repeat(None)
            for digest, signature in zip(digests, signatures, strict=near):
                yield digest.tobytes(), signature

    def _encode(self, workers: Pool) -> None:
        passed = [self._workshop.counts(piece)["passed"] for piece in self._pieces]
        firsts = itertools.accumulate(passed, initial=0)
        jobs = [EncodeJob(piece, first) for piece, first in zip(self._pieces, firsts, strict=False)]
        workers.run("encode", jobs, lambda job: self._workshop.tokens(job.piece, "json").is_file(), "piece")

    def _is_joined(self, plan: ShardPlan) -> bool:
        return self._workshop.shard_note(plan.split, plan.name).is_file()

    def _finish(self, plans: Sequence[ShardPlan]) -> None:
        """Copy the tokenizer, write the card, and last the index."""
        if not any(plan.split == "train" for plan in plans):
            reasons = make_card(self._workshop, self._pieces)["dropped"]
            raise DataError(f"no document is left for training; dropped: {reasons}. Loosen the recipe's filters")
        output, recipe = self._workshop.output, self._workshop.recipe
        for split in SPLITS:  # a run that was killed leaves the file it was at
            for partial_file in (output / split).glob(".*.partial"):
                partial_file.unlink()
        (output / "tokenizer").mkdir(parents=True, exist_ok=True)
        for name in TOKENIZER_FILES:
            if (self._workshop.base / recipe.tokenizer / name).is_file():
                shutil.copyfile(self._workshop.base / recipe.tokenizer / name, output / "tokenizer" / name)
        write_card(output, make_card(self._workshop, self._pieces))
        write_json(output / INDEX, self._index(plans))
        read_index(output)

    def _index(self, plans: Sequence[ShardPlan]) -> dict[str, Any]:
        recipe, tokenizer = self._workshop.recipe, self._tokenizer
        notes = [(plan, read_json(self._workshop.shard_note(plan.split, plan.name))) for plan in plans]
        shards = {
            (source.name, split): [
                note for plan, note in notes if plan.split == split and plan.name[:-6] == source.name
            ]
            for source in recipe.sources
            for split in SPLITS
        }
        return {
            "format": FORMAT,
            "version": VERSION,
            "dtype": f"uint{8 * token_type(tokenizer.vocab_size).itemsize}",
            "vocab_size": tokenizer.vocab_size,
            "tokenizer_sha256": sha256_of(self._workshop.output / "tokenizer" / "tokenizer.json"),
            "begin_id": tokenizer.bos_id if recipe.begin else None,
            "end_id": tokenizer.eos_id if recipe.end else None,
            "sources": [
                {
                    "name": source.name,
                    "weight": source.weight,
                    "epochs": source.epochs,
                    **{split: shards[source.name, split] for split in SPLITS},
                }
                for source in recipe.sources
            ],
        }
