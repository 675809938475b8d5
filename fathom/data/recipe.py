"""The recipe of a data set: what `fathom data prepare` reads. `docs/data.md` explains every key by example."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from fathom.data.errors import RecipeError
from fathom.data.quality import CodeRules, ProseRules
from fathom.data.typed import from_table, read_toml


@dataclass(frozen=True, slots=True)
class Source:
    """One kind of text.

    `paths`: files, folders (read whole, in the order of names) and patterns (`**` too), from the recipe's folder.
    `format`: `text` (a file is a document, or several between `separator`s), `jsonl`, `parquet`; `.gz` may follow the
    first two. `field`: where the text is in JSONL and Parquet, `a.b` for nested. `suffixes`: which files of a folder.
    `languages`: what is kept, by ISO 639-1 code and `und`; empty keeps all. `quality`: which rules. `weight`: share of
    the training tokens; `epochs`: how often the source is seen in a pass (with weights: at most). `licence`, `origin`:
    told in the card.
    """

    name: str
    paths: tuple[str, ...]
    format: Literal["text", "jsonl", "parquet"] = "text"
    field: str = "text"
    separator: str | None = None
    suffixes: tuple[str, ...] = ()
    languages: tuple[str, ...] = ()
    quality: Literal["prose", "code", "none"] = "prose"
    weight: float | None = None
    epochs: float = 1.0
    licence: str = "not stated"
    origin: str = "not stated"

    def __post_init__(self) -> None:
        if not self.name.replace("-", "").replace("_", "").isalnum() or not self.name.isascii():
            raise RecipeError(f"a source's name is letters, digits, - and _ (it names files), not {self.name!r}")
        if not self.paths:
            raise RecipeError(f"the source {self.name!r} has no paths")
        if self.separator is not None and (self.format != "text" or not self.separator):
            raise RecipeError(f"separator belongs to format 'text' and is not empty (source {self.name!r})")
        if self.epochs <= 0 or (self.weight is not None and self.weight <= 0):
            raise RecipeError(f"weight and epochs are above 0 (source {self.name!r}); leave the source out instead")


@dataclass(frozen=True, slots=True)
class Deduplicate:
    """`exact`: by hash. `near`: MinHash of `shingle_words`-grams, `permutations` of them, Jaccard >= `threshold`."""

    exact: bool = True
    near: bool = True
    threshold: float = 0.8
    permutations: int = 128
    shingle_words: int = 5

    def __post_init__(self) -> None:
        if not 0 < self.threshold <= 1 or self.permutations < 16 or self.shingle_words < 1:
            raise RecipeError("0 < threshold <= 1, permutations >= 16 and shingle_words >= 1")


@dataclass(frozen=True, slots=True)
class Evaluation:
    """An evaluation set: JSONL files and which of their fields hold text (`a.b` for nested)."""

    name: str
    paths: tuple[str, ...]
    fields: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Decontaminate:
    """A document that shares a run of `words` words with an evaluation set is dropped.

    Items shorter than that count as a whole, down to `shortest` words (GPT-3's report, appendix C, uses 8 to 13 words).
    """

    words: int = 13
    shortest: int = 8
    evaluations: tuple[Evaluation, ...] = ()

    def __post_init__(self) -> None:
        if not 1 <= self.shortest <= self.words:
            raise RecipeError("1 <= shortest <= words")


@dataclass(frozen=True, slots=True)
class FimSettings:
    """`rate`: share of documents told prefix, suffix, middle (DeepSeek-V3: 0.1)."""

    rate: float = 0.1

    def __post_init__(self) -> None:
        if not 0 <= self.rate <= 1:
            raise RecipeError("rate lies between 0 and 1")


@dataclass(frozen=True, slots=True)
class Quality:
    """The thresholds of the rules, by kind of text."""

    prose: ProseRules = field(default_factory=ProseRules)
    code: CodeRules = field(default_factory=CodeRules)


@dataclass(frozen=True, slots=True)
class Recipe:
    """`tokenizer`: its folder. `output`: the folder of shards. `validation`: share of documents held out.

    `begin`, `end`: whether documents are framed by the tokenizer's first and last tokens. `seed` enters the choice of
    documents for FIM and validation. `shard_megabytes`: bytes of tokens in a shard, roughly; `piece_megabytes`: text
    that one process reads at a time.
    """

    output: str
    tokenizer: str
    sources: tuple[Source, ...]
    validation: float = 0.005
    begin: bool = True
    end: bool = True
    seed: int = 0
    shard_megabytes: float = 256.0
    piece_megabytes: float = 8.0
    deduplicate: Deduplicate = field(default_factory=Deduplicate)
    decontaminate: Decontaminate = field(default_factory=Decontaminate)
    fim: FimSettings = field(default_factory=FimSettings)
    quality: Quality = field(default_factory=Quality)

    def __post_init__(self) -> None:
        names = [source.name for source in self.sources]
        if not names or len(set(names)) < len(names):
            raise RecipeError(f"sources are at least one and have different names, not {names}")
        weighted = [source.name for source in self.sources if source.weight is not None]
        if weighted and len(weighted) < len(names):
            raise RecipeError(f"either all sources have a weight or none; only {', '.join(weighted)} have one")
        if not 0 <= self.validation < 1 or self.shard_megabytes <= 0 or self.piece_megabytes <= 0:
            raise RecipeError("0 <= validation < 1, shard_megabytes > 0 and piece_megabytes > 0")

    def to_json(self) -> dict[str, Any]:
        """All keys, with the defaults filled in."""
        return asdict(self)


def read_recipe(file: Path, overrides: Sequence[str] = ()) -> Recipe:
    """Read a recipe; raises RecipeError, which names the key and the nearest known one."""
    return from_table(Recipe, read_toml(file, overrides), file.name)
