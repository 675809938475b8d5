"""The data card: what the shards hold, whence it came, under which licences, and what was dropped and why."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from fathom.data.files import read_json, write_json, write_text
from fathom.data.pieces import Piece
from fathom.data.recipe import Source
from fathom.data.tokenising import SPLITS
from fathom.data.workshop import Tally, Workshop


def make_card(workshop: Workshop, pieces: Sequence[Piece]) -> dict[str, Any]:
    """Collect all counts. Holds no date and no path of this machine: the same data give the same card."""
    sources = [
        _source_card(workshop, source, [piece for piece in pieces if piece.source == number])
        for number, source in enumerate(workshop.recipe.sources)
    ]
    total = Tally()
    for source in sources:
        total.add(source["dropped"], {})
    recipe = workshop.recipe.to_json()
    return {
        "documents_read": sum(source["documents_read"] for source in sources),
        **{split: _sum([source[split] for source in sources]) for split in SPLITS},
        "dropped": dict(sorted(total.dropped.items())),
        "sources": sources,
        "recipe": {key: value for key, value in recipe.items() if key not in ("output", "sources")},
    }


def _source_card(workshop: Workshop, source: Source, pieces: Sequence[Piece]) -> dict[str, Any]:
    cleaned = [workshop.counts(piece) for piece in pieces]
    encoded = [read_json(workshop.tokens(piece, "json")) for piece in pieces]
    tally = Tally()
    for counts in (*cleaned, *encoded):
        tally.add(counts["dropped"], counts["examples"])
    return {
        "name": source.name,
        "licence": source.licence,
        "origin": source.origin,
        "weight": source.weight,
        "epochs": source.epochs,
        "languages": list(source.languages),
        "quality": source.quality,
        "documents_read": sum(counts["read"] for counts in cleaned),
        "characters_read": sum(counts["characters_read"] for counts in cleaned),
        **{split: _sum([counts[split] for counts in encoded]) for split in SPLITS},
        "dropped": dict(sorted(tally.dropped.items())),
        "examples": dict(sorted(tally.examples.items())),
    }


def _sum(counts: Sequence[dict[str, int]]) -> dict[str, int]:
    keys = ("documents", "tokens", "bytes", "fim_documents")
    return {key: sum(count[key] for count in counts) for key in keys}


def write_card(folder: Path, card: dict[str, Any]) -> None:
    """`card.json` for programs, `card.md` for people."""
    write_json(folder / "card.json", card)
    write_text(folder / "card.md", "\n".join(_lines(card)) + "\n")


def _lines(card: dict[str, Any]) -> list[str]:
    train, validation = card["train"], card["validation"]
    recipe = card["recipe"]
    evaluations = [evaluation["name"] for evaluation in recipe["decontaminate"]["evaluations"]]
    return [
        "# Data card",
        "",
        f"{train['documents']:,} documents, {train['tokens']:,} tokens, {train['bytes'] / 1e6:,.1f} MB of text for "
        f"training; {validation['documents']:,} documents, {validation['tokens']:,} tokens for validation. "
        f"{card['documents_read']:,} documents were read.",
        "",
        f"Fill-in-the-middle: {train['fim_documents']:,} training documents (rate {recipe['fim']['rate']:g}). "
        + (f"Kept apart from: {', '.join(evaluations)}." if evaluations else "No evaluation set was kept apart."),
        "Personal data were not searched for; see each source.",
        "",
        "## Sources",
        "",
        "| source | licence | documents read | kept | tokens | bytes per token | weight | epochs |",
        "| --- | --- | ---: | ---: | ---: | ---: | ---: | ---: |",
        *(_source_row(source) for source in card["sources"]),
        "",
        *(f"- {source['name']}: {source['origin']}" for source in card["sources"]),
        "",
        "## Dropped",
        "",
        "| why | documents | per cent of those read |",
        "| --- | ---: | ---: |",
        *(
            f"| {reason} | {count:,} | {100 * count / max(1, card['documents_read']):.2f} |"
            for reason, count in card["dropped"].items()
        ),
        "",
        "### Examples",
        "",
        *(
            f"- {source['name']}, {reason}: `{example.replace('`', ' ')}`"
            for source in card["sources"]
            for reason, examples in source["examples"].items()
            for example in examples[:1]
        ),
    ]


def _source_row(source: dict[str, Any]) -> str:
    kept = source["train"]["documents"] + source["validation"]["documents"]
    tokens = source["train"]["tokens"] + source["validation"]["tokens"]
    size = source["train"]["bytes"] + source["validation"]["bytes"]
    weight = "-" if source["weight"] is None else f"{source['weight']:g}"
    return (
        f"| {source['name']} | {source['licence']} | {source['documents_read']:,} | {kept:,} | {tokens:,} | "
        f"{size / max(1, tokens):.2f} | {weight} | {source['epochs']:g} |"
    )
