"""A small corpus of three kinds of text, a tokenizer trained on it, and a recipe; all made here, from a fixed seed."""

import json
import random
from collections.abc import Callable
from pathlib import Path

import pytest

from fathom.text.training import save_tokenizer, train_tokenizer

TEXT = (
    "the of and to in is that have with it river mountain stone light water garden house window morning evening "
    "teacher student letter paper bread winter summer music forest travel story answer question number simple"
)
WORDS = TEXT.split()
HAN = "天地玄黄宇宙洪荒日月盈昃辰宿列张寒来暑往秋收冬藏闰余成岁律吕调阳云腾致雨露结为霜金生丽水玉出昆冈"


def _sentence(random_: random.Random) -> str:
    words = [random_.choice(WORDS) for _ in range(random_.randint(6, 14))]
    return f"{' '.join(words).capitalize()} {random_.randint(0, 9999)}."


def _document(random_: random.Random) -> str:
    return "\n\n".join(" ".join(_sentence(random_) for _ in range(5)) for _ in range(random_.randint(2, 6)))


@pytest.fixture(scope="session")
def english() -> list[str]:
    random_ = random.Random(1)
    return [_document(random_) for _ in range(120)]


@pytest.fixture(scope="session")
def chinese() -> list[str]:
    random_ = random.Random(2)
    return ["".join(random_.choice(HAN) for _ in range(random_.randint(80, 200))) + "。" for _ in range(40)]


@pytest.fixture(scope="session")
def tokenizer_folder(tmp_path_factory: pytest.TempPathFactory, english: list[str], chinese: list[str]) -> Path:
    folder = tmp_path_factory.mktemp("tokenizer")
    save_tokenizer(train_tokenizer([*english, *chinese], 600), folder)
    return folder


@pytest.fixture
def make_corpus(tokenizer_folder: Path, english: list[str], chinese: list[str]) -> Callable[[Path], Path]:
    """Writes sources and a recipe into a folder and returns the recipe's path."""

    def make(folder: Path) -> Path:
        (folder / "stories").mkdir(parents=True)
        for number, text in enumerate(english[:60]):
            (folder / "stories" / f"{number:03d}.txt").write_text(text, encoding="utf-8")
        rows = [{"body": {"text": text}} for text in [*english[50:], *chinese]]
        rows.append({"body": {"text": english[100].replace("winter", "summer", 1)}})  # a near copy
        rows.append({"body": {"text": "Too short."}})
        lines = [json.dumps(row, ensure_ascii=False) for row in rows]
        (folder / "rows.jsonl").write_text("\n".join([*lines, "{broken", ""]), encoding="utf-8")
        (folder / "recipe.toml").write_text(
            f"""
output = "shards"
tokenizer = "{tokenizer_folder}"
validation = 0.1
piece_megabytes = 0.02
shard_megabytes = 0.02

[[sources]]
name = "stories"
paths = ["stories"]
languages = ["en"]
licence = "CC0"

[[sources]]
name = "rows"
format = "jsonl"
field = "body.text"
paths = ["rows.jsonl"]
epochs = 2
""",
            encoding="utf-8",
        )
        return folder / "recipe.toml"

    return make
