"""Normalising, language, quality, n-grams, near copies and FIM, each against a plainer statement of the same."""

import hashlib
import unicodedata
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fathom.data.deduplication import Fate, Signer, choose, text_digest
from fathom.data.fim import FillInMiddle, cut, uniforms
from fathom.data.language import identify
from fathom.data.ngrams import ngram_hashes, word_hashes, words_of
from fathom.data.normalise import normalise
from fathom.data.quality import CodeRules, ProseRules, code_fault, prose_fault
from fathom.data.recipe import Deduplicate
from fathom.text import Tokenizer

GOOD = (
    "The harbour town lies at the mouth of a wide river, and its people have lived with the sea for longer than anyone "
    "can tell. Every spring the boats go out before dawn to be back by noon, when the market opens under the old lime "
    "trees. Visitors come for the light, which painters praise, and for bread that is baked in ovens built of clay."
)


@settings(deadline=None)
@given(st.text())
def test_normalising_is_idempotent_and_leaves_nothing_to_remove(text: str) -> None:
    once = normalise(text)
    assert normalise(once) == once
    assert unicodedata.is_normalized("NFC", once)
    assert not any(unicodedata.category(character) == "Cc" and character not in "\n\t" for character in once)
    assert "\n\n\n\n" not in once


def test_normalising_by_example() -> None:
    assert normalise("\ufeffCafe\u0301\r\nso\u00adft \t\r\n\n\n\n\n    x = 1\x00\n") == "Café\nsoft\n\n\n    x = 1"


@pytest.mark.parametrize(
    ("text", "code"),
    [
        (GOOD, "en"),
        ("Der Hafen liegt an der Mündung des Flusses, und die Leute haben dort immer mit dem Meer gelebt.", "de"),
        ("La ville est au bord de la mer et les gens y vivent avec elle depuis plus longtemps que nous.", "fr"),
        ("La ciudad está en la boca del río y su gente vive con el mar desde hace más años que nadie.", "es"),
        ("这座港口城市位于河口，人们世世代代与大海为伴，运行 git commit 命令可以提交更改。", "zh"),
        ("これは港町の話です。人々は昔から海とともに暮らしてきました。", "ja"),
        ("이 항구 도시는 강 어귀에 있으며 사람들은 오래도록 바다와 함께 살아왔다.", "ko"),
        ("تقع المدينة عند مصب النهر ويعيش أهلها مع البحر منذ زمن بعيد", "ar"),
        ("Город лежит в устье широкой реки, и люди живут у моря очень давно.", "ru"),
        ("Lorem ipsum dolor sit amet, consectetur adipiscing elit, sed eiusmod tempor incididunt ut labore.", "und"),
        ("12345 67890", "und"),
    ],
)
def test_languages(text: str, code: str) -> None:
    assert identify(text).code == code


def test_good_prose_in_two_scripts_passes() -> None:
    assert prose_fault(GOOD, ProseRules(), is_english=True) is None
    chinese = (
        "港城位于大河入海之处其民自古与海相伴每逢春日天未明而舟已出至午乃归市集开于老椴树下客来观光"
        "画者称之饼烤于泥炉香闻数里孩童绕树而戏老者坐而论昔日风浪之事"
    )
    assert prose_fault(chinese, ProseRules(), is_english=False) is None


@pytest.mark.parametrize(
    ("text", "rule"),
    [
        ("Too short to be a document.", "fewest_words"),
        ("a b c d e f g h i j " * 10, "shortest_mean_word"),
        ("internationalisation " * 60, "longest_mean_word"),
        ("the and 12345 6789 67890 " * 30, "words_with_letters"),
        (GOOD + " # # # # # # # # # # # #", "symbols_per_word"),
        (" ".join(f"wort{n} satz{n}" for n in range(40)), "stop_words"),
        (GOOD + " Please enable JavaScript.", "boilerplate"),
        ("\n".join(f"- the point number {n} of what we have to say" for n in range(20)), "bullet_lines"),
        ("\n".join(f"the start of story {n} and its way..." for n in range(20)), "symbols_per_word"),
        ("\n".join([GOOD] * 3), "duplicate_lines"),
        (GOOD + " read the news" * 25, "top_2_gram"),
        (" ".join([GOOD, "and then", GOOD]), "repeated_5_grams"),
    ],
)
def test_each_rule_drops_what_it_is_for(text: str, rule: str) -> None:
    assert prose_fault(text, ProseRules(), is_english=True) == rule


def test_code_rules() -> None:
    source = "def add(a, b):\n    return a + b\n" * 10
    assert code_fault(source, CodeRules()) is None
    assert code_fault(source + "x" * 1001, CodeRules()) == "longest_line"
    assert code_fault("{}[]();" * 12 + "\n" + "....;;;;" * 12, CodeRules()) == "alphanumeric"
    assert code_fault("x = 1", CodeRules()) == "fewest_characters"
    assert code_fault("abc " * 30 + "\n" + "abc " * 30, CodeRules()) == "longest_mean_line"


@settings(deadline=None)
@given(st.lists(st.sampled_from(["a", "b", "c"]), max_size=40), st.integers(1, 6))
def test_ngram_hashes_are_equal_exactly_where_ngrams_are(words: list[str], n: int) -> None:
    hashes = ngram_hashes(word_hashes(words), n)
    grams = [tuple(words[i : i + n]) for i in range(len(words) - n + 1)]
    assert len(hashes) == len(grams)
    by_gram = dict(zip(grams, hashes.tolist(), strict=True))
    assert [by_gram[gram] for gram in grams] == hashes.tolist()
    assert len(set(by_gram.values())) == len(by_gram)


def test_words() -> None:
    assert words_of("Héllo, World_2! 你好ab あ") == ["héllo", "world", "2", "你", "好", "ab", "あ"]


def test_signatures_estimate_the_jaccard_index() -> None:
    settings = Deduplicate(permutations=512, shingle_words=1)
    words = [f"w{n}" for n in range(400)]
    signer = Signer(settings)
    first, second = (signer.sign(word_hashes(part)) for part in (words[:300], words[100:]))
    assert abs(np.mean(first == second) - 200 / 400) < 0.08


def test_the_first_of_near_copies_stays() -> None:
    settings = Deduplicate()
    signer = Signer(settings)
    words = [f"w{n}" for n in range(300)]
    near = [*words[:150], "other", *words[151:]]
    far = [f"v{n}" for n in range(300)]
    documents = [(text_digest(" ".join(text)), signer.sign(word_hashes(text))) for text in (words, near, far, words)]
    assert list(choose(documents, settings)) == [Fate.KEPT, Fate.NEAR, Fate.KEPT, Fate.EXACT]
    assert list(choose(documents, Deduplicate(near=False))) == [Fate.KEPT, Fate.KEPT, Fate.KEPT, Fate.EXACT]
    assert list(choose(documents, Deduplicate(exact=False, near=False))) == [Fate.KEPT] * 4


@settings(deadline=None)
@given(st.text(alphabet=st.characters(exclude_categories=["Cs"])), st.binary(max_size=16))
def test_fill_in_the_middle_goes_there_and_back(tokenizer_folder: Path, text: str, key: bytes) -> None:
    tokenizer = Tokenizer.from_folder(tokenizer_folder)
    fill = FillInMiddle.of(tokenizer)
    parts = cut(text, key, 1.0)
    assert (parts is None) == (text == "")
    if parts is None:
        return
    assert "".join(parts) == text
    ids = fill.arrange(*(tokenizer.encode(part) for part in parts))
    restored = fill.restore(ids)
    assert restored is not None
    assert "".join(tokenizer.decode(part) for part in restored) == text
    assert fill.restore(tokenizer.encode(text)) is None


def test_fill_in_the_middle_writes_prefix_suffix_middle(tokenizer_folder: Path) -> None:
    tokenizer = Tokenizer.from_folder(tokenizer_folder)
    ids = FillInMiddle.of(tokenizer).arrange(*(tokenizer.encode(part) for part in ("def f", "(x", "): pass")))
    assert tokenizer.decode(ids) == "<｜fim▁begin｜>def f<｜fim▁hole｜>): pass<｜fim▁end｜>(x"


def test_fill_in_the_middle_keeps_its_rate() -> None:
    keys = [hashlib.sha256(str(number).encode()).digest() for number in range(4000)]
    assert 0.08 < sum(cut("text", key, 0.1) is not None for key in keys) / len(keys) < 0.12
    assert not any(cut("text", key, 0.0) for key in keys)
    assert all(0 <= value < 1 for key in keys[:100] for value in uniforms(key, 8))
