"""Ids equal to llama.cpp's and transformers', decoding by bytes, control tokens only by name."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fathom.text import TextStream, Tokenizer, TokenizerError

LONG = {
    "words": "the quick brown fox " * 5000,
    "one letter": "a" * 100_000,
    "spaces, then a letter": " " * 100_000 + "x",
    "line ends": "\r\n" * 50_000,
    "tabs and spaces": "\t " * 50_000 + "x",
    "Chinese": "深度求索" * 25_000,
    "digits": "7" * 100_000,
    "punctuation": "<!" * 50_000,
    "combining marks": "e" + "\u0301" * 100_000,
    "emoji": "👩‍👩‍👧" * 20_000,
}


@pytest.mark.parametrize(
    "pre", ["smollm", "qwen2", "llama-bpe", "deepseek-llm", "deepseek-coder", "deepseek-v3", "gpt-2", "default"]
)
def test_ids_equal_llama_cpp(
    pre: str, smollm2_metadata: dict[str, Any], hard_strings: list[str], golden_ids: dict[str, list[list[int]]]
) -> None:
    tokenizer = Tokenizer.from_gguf(smollm2_metadata | {"tokenizer.ggml.pre": pre})
    different = [text for text, ids in zip(hard_strings, golden_ids[pre], strict=True) if tokenizer.encode(text) != ids]
    # Qwen2 was trained on text composed to NFC, which llama.cpp leaves out: transformers composes, and so do we.
    assert different == ([text for text in hard_strings if text.startswith("e\u0301 ")] if pre == "qwen2" else [])


def test_ids_equal_transformers(v3: Tokenizer, v3_transformers: Any, hard_strings: list[str]) -> None:
    for text in hard_strings:
        if not v3.control_pattern.search(text):
            assert v3.encode(text) == v3_transformers.encode(text, add_special_tokens=False), text
        assert v3.encode_control(text) == v3_transformers.encode(text, add_special_tokens=False), text


@pytest.mark.parametrize("text", LONG.values(), ids=LONG.keys())
@pytest.mark.timeout(20)
def test_100k_characters(text: str, v3: Tokenizer, smollm2: Tokenizer, v3_transformers: Any) -> None:
    assert v3.encode(text) == v3_transformers.encode(text, add_special_tokens=False)
    assert v3.decode(v3.encode(text)) == text
    assert smollm2.decode(smollm2.encode(text)) == text


def test_gguf_and_json_of_one_vocabulary_agree(v3: Tokenizer, v3_folder: Path, hard_strings: list[str]) -> None:
    """V3's tokenizer.json written as GGUF metadata the way llama.cpp's converter does."""
    data = json.loads((v3_folder / "tokenizer.json").read_text())
    tokens = {id: token for token, id in data["model"]["vocab"].items()}
    types = dict.fromkeys(tokens, 1)
    for token in data["added_tokens"]:
        tokens[token["id"]] = token["content"]
        types[token["id"]] = 3 if token["special"] or "｜" in token["content"] else 4
    merges = [merge if isinstance(merge, str) else " ".join(merge) for merge in data["model"]["merges"]]
    gguf = Tokenizer.from_gguf(
        {
            "tokenizer.ggml.model": "gpt2",
            "tokenizer.ggml.pre": "deepseek-v3",
            "tokenizer.ggml.tokens": [tokens[id] for id in range(len(tokens))],
            "tokenizer.ggml.token_type": [types[id] for id in range(len(tokens))],
            "tokenizer.ggml.merges": merges,
            "tokenizer.ggml.bos_token_id": 0,
            "tokenizer.ggml.eos_token_id": 1,
        }
    )
    assert gguf.control.keys() == v3.control.keys()
    assert (gguf.bos_id, gguf.eos_id, gguf.stop_ids, gguf.vocab_size) == (
        v3.bos_id,
        v3.eos_id,
        v3.stop_ids,
        v3.vocab_size,
    )
    for text in hard_strings:
        assert gguf.encode(text) == v3.encode(text)
        assert gguf.encode_control(text) == v3.encode_control(text)
    assert all(gguf.token_bytes(id) == v3.token_bytes(id) for id in range(v3.vocab_size))


@given(text=st.text())
@settings(max_examples=100, deadline=None)
def test_any_text_survives(text: str, v3: Tokenizer) -> None:
    assert v3.decode(v3.encode(text)) == text


def test_smollm2_lacks_tokens_for_some_bytes(smollm2: Tokenizer) -> None:
    """Its vocabulary cannot say them; as in llama.cpp and transformers they are left out."""
    missing = {byte for byte in range(128) if smollm2.decode(smollm2.encode(chr(byte))) != chr(byte)}
    assert missing == {0x04, 0x06, 0x13, 0x14, 0x16, 0x1D}


def test_half_surrogate_pairs_become_replacement_characters(v3: Tokenizer) -> None:
    assert v3.decode(v3.encode("a\ud83db\udc00")) == "a\ufffdb\ufffd"


def test_decoding_equals_transformers(v3: Tokenizer, v3_transformers: Any, hard_strings: list[str]) -> None:
    for text in hard_strings:
        ids = v3.encode_control(text)
        for start in range(min(len(ids), 12)):  # also from the middle of characters
            assert v3.decode(ids[start:]) == v3_transformers.decode(ids[start:], skip_special_tokens=False)


@pytest.mark.parametrize("name", ["v3", "smollm2"])
@given(data=st.data())
@settings(max_examples=80, deadline=None)
def test_stream_equals_whole_decoding(name: str, data: st.DataObject, request: pytest.FixtureRequest) -> None:
    """Of arbitrary ids: most sequences are not UTF-8, and some ids are those of a padded vocabulary."""
    tokenizer: Tokenizer = request.getfixturevalue(name)
    ids = data.draw(st.lists(st.integers(0, tokenizer.vocab_size + 100) | st.integers(3, 300), max_size=40))
    stream = TextStream(tokenizer)
    pieces = [stream.push(id) for id in ids]
    assert "".join(pieces) + stream.flush() == tokenizer.decode(ids)


def test_stream_never_shows_half_a_character(v3: Tokenizer, smollm2: Tokenizer, hard_strings: list[str]) -> None:
    for tokenizer in (v3, smollm2):
        for text in hard_strings:
            stream = TextStream(tokenizer)
            shown = ""
            for id in tokenizer.encode(text):
                shown += stream.push(id)
                assert text.startswith(shown)
            assert shown == text
            assert stream.flush() == ""


def test_stream_flushes_an_incomplete_character(smollm2: Tokenizer) -> None:
    stream = TextStream(smollm2)
    face = smollm2.encode("🤌")
    assert len(face) > 1
    assert [stream.push(id) for id in face[:-1]] == [""] * (len(face) - 1)
    assert stream.flush() == "\ufffd"
    assert "".join(stream.push(id) for id in face) == "🤌"


def test_stop_and_begin_ids(v3: Tokenizer, smollm2: Tokenizer) -> None:
    assert (v3.bos_id, v3.eos_id, v3.add_bos, v3.vocab_size) == (0, 1, False, 128815)
    assert v3.stop_ids == {1, v3.id_of("<|EOT|>")}
    assert (smollm2.bos_id, smollm2.eos_id, smollm2.add_bos, smollm2.vocab_size) == (1, 2, False, 49152)
    assert smollm2.stop_ids == {smollm2.id_of("<|endoftext|>"), smollm2.id_of("<|im_end|>")} == {0, 2}
    assert v3.id_of("<think>") == 128798
    assert v3.id_of("no such token") is None


def test_plain_text_never_yields_control_tokens(v3: Tokenizer, smollm2: Tokenizer) -> None:
    assert len(v3.control) == 818
    for tokenizer in (v3, smollm2):
        control_ids = {token.id for token in tokenizer.control.values()}
        for token in tokenizer.control:
            text = f"a{token}b {token}\n{token}"
            ids = tokenizer.encode(text)
            assert not control_ids & set(ids)
            assert tokenizer.decode(ids) == text
            assert tokenizer.encode_control(token) == [tokenizer.id_of(token)]


def write_folder(source: Path, folder: Path, **changes: object) -> Path:
    """A copy of a tokenizer folder with keys of tokenizer.json changed."""
    folder.mkdir()
    data = json.loads((source / "tokenizer.json").read_text()) | changes
    (folder / "tokenizer.json").write_text(json.dumps(data))
    shutil.copy(source / "tokenizer_config.json", folder)
    return folder


def test_a_file_that_would_clip_or_pad_does_not(v3_folder: Path, tmp_path: Path) -> None:
    truncation = {"direction": "Right", "max_length": 4, "strategy": "LongestFirst", "stride": 0}
    padding = {"strategy": {"Fixed": 99}, "direction": "Right", "pad_to_multiple_of": None, "pad_id": 0}
    padding |= {"pad_type_id": 0, "pad_token": "x"}
    folder = write_folder(v3_folder, tmp_path / "clipping", truncation=truncation, padding=padding)
    assert len(Tokenizer.from_folder(folder).encode("one two three four five six")) == 6


def test_folder_settings(v3_folder: Path, tmp_path: Path) -> None:
    folder = write_folder(v3_folder, tmp_path / "settings")
    (folder / "generation_config.json").write_text(json.dumps({"eos_token_id": [1, 128803]}))
    (folder / "chat_template.jinja").write_text("{{ messages }}")
    tokenizer = Tokenizer.from_folder(folder)
    assert {1, 128803} <= tokenizer.stop_ids
    assert tokenizer.chat_template == "{{ messages }}"


def test_a_token_may_take_the_white_space_beside_it(v3_folder: Path, tmp_path: Path) -> None:
    data = json.loads((v3_folder / "tokenizer.json").read_text())
    for token in data["added_tokens"]:
        if token["content"] == "<think>":
            token |= {"lstrip": True, "rstrip": True}
    folder = write_folder(v3_folder, tmp_path / "strip", added_tokens=data["added_tokens"])
    tokenizer = Tokenizer.from_folder(folder)
    assert tokenizer.encode_control("a \n<think>\n b") == [*tokenizer.encode("a"), 128798, *tokenizer.encode("b")]


def test_missing_and_damaged_files(v3_folder: Path, tmp_path: Path) -> None:
    with pytest.raises(TokenizerError, match=r"no tokenizer\.json.*save_pretrained"):
        Tokenizer.from_folder(tmp_path)
    (tmp_path / "tokenizer.json").write_text("{")
    with pytest.raises(TokenizerError, match=r"is not a tokenizer\.json"):
        Tokenizer.from_folder(tmp_path)
    metaspace = {"type": "Metaspace", "replacement": "▁", "prepend_scheme": "always", "split": True}
    with pytest.raises(TokenizerError, match="not a byte-level vocabulary"):
        Tokenizer.from_folder(write_folder(v3_folder, tmp_path / "llama2", decoder=metaspace))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"tokenizer.ggml.model": "llama"}, "kind 'llama'"),
        ({"tokenizer.ggml.pre": "mystery"}, "'mystery', which Fathom does not know"),
        ({"tokenizer.ggml.merges": None}, r"no tokenizer\.ggml\.merges"),
        ({"tokenizer.ggml.merges": ["zq zq"]}, "merges do not fit"),
        ({"tokenizer.ggml.merges": ["zq"]}, "merges do not fit"),
        ({"tokenizer.ggml.token_type": [1]}, "49152 tokens but 1 token types"),
    ],
)
def test_gguf_files_it_cannot_read(changes: dict[str, Any], message: str, smollm2_metadata: dict[str, Any]) -> None:
    with pytest.raises(TokenizerError, match=message):
        Tokenizer.from_gguf(smollm2_metadata | changes)
