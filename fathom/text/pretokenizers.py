"""How text is cut into words before byte-pair merging: the published rules, as our own data.

Each rule is a sequence of regular expressions (Oniguruma syntax, as in `tokenizer.json`). Every expression in turn cuts
the pieces left by the one before into its matches and what lies between them. Then each piece is spelled in bytes.

Sources: the `tokenizer.json` of DeepSeek-V2 and DeepSeek-V3/R1, of Qwen2 and of Llama 3; for the others the table by
which llama.cpp reads `tokenizer.ggml.pre`. Where the two differ we follow the file the model was trained with:
DeepSeek-V2 cuts digits one by one (llama.cpp: runs of digits; V2's vocabulary has no token of two digits, so the ids
are the same), and Qwen2 normalises to NFC first (llama.cpp does not).
"""

from dataclasses import dataclass

from tokenizers import Regex, pre_tokenizers
from tokenizers.pre_tokenizers import PreTokenizer

_CONTRACTIONS = r"(?:'[sS]|'[tT]|'[rR][eE]|'[vV][eE]|'[mM]|'[lL][lL]|'[dD])"
_GPT2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)"
_WHITESPACE = r"\s*[\r\n]+|\s+(?!\S)|\s+"
# Escaped, since the Kelvin and Ohm signs among them do not survive every editor.
_CASED_LETTERS = (
    "A-Za-z\u00b5\u00c0-\u00d6\u00d8-\u00f6\u00f8-\u01ba\u01bc-\u01bf\u01c4-\u0293\u0295-\u02af\u0370-\u0373"
    "\u0376\u0377\u037b-\u037d\u037f\u0386\u0388-\u038a\u038c\u038e-\u03a1\u03a3-\u03f5\u03f7-\u0481\u048a-\u052f"
    "\u0531-\u0556\u10a0-\u10c5\u13a0-\u13f5\u13f8-\u13fd\u1c90-\u1cba\u1cbd-\u1cbf\u1d00-\u1d2b\u1d6b-\u1d77"
    "\u1d79-\u1d9a\u1e00-\u1f15\u1f18-\u1f1d\u1f20-\u1f45\u1f48-\u1f4d\u1f50-\u1f57\u1f59\u1f5b\u1f5d"
    "\u1f5f-\u1f7d\u1f80-\u1fb4\u1fb6-\u1fbc\u1fbe\u1fc2-\u1fc4\u1fc6-\u1fcc\u1fd0-\u1fd3\u1fd6-\u1fdb"
    "\u1fe0-\u1fec\u1ff2-\u1ff4\u1ff6-\u1ffc\u2102\u2107\u210a-\u2113\u2115\u2119-\u211d\u2124\u2126\u2128"
    "\u212a-\u212d\u212f-\u2134\u2139\u213c-\u213f\u2145-\u2149\u214e\u2183\u2184\u2c00-\u2c7b\u2c7e-\u2ce4"
    "\u2ceb-\u2cee\u2cf2\u2cf3\ua640-\ua66d\ua680-\ua69b\ua722-\ua76f\ua771-\ua787\ua78b-\ua78e\uab70-\uabbf"
    "\ufb00-\ufb06\ufb13-\ufb17\uff21-\uff3a\uff41-\uff5a\U00010400-\U0001044f\U000104b0-\U000104d3"
    "\U000104d8-\U000104fb\U00010c80-\U00010cb2\U00010cc0-\U00010cf2\U000118a0-\U000118df\U0001e900-\U0001e943"
)


@dataclass(frozen=True, slots=True)
class PreTokenizerRules:
    """One way of cutting text into words.

    `splits`: the expressions, in order. `whole_words`: a word that is itself a token is taken without merging
    (`ignore_merges`). `nfc`: text is composed to Unicode NFC first.
    """

    splits: tuple[str, ...]
    whole_words: bool = False
    nfc: bool = False


DEEPSEEK_V3 = PreTokenizerRules(
    (
        r"\p{N}{1,3}",
        r"[一-龥\u3040-ゟ゠-ヿ]+",
        r"""[!"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+"""
        r"| ?[\p{P}\p{S}]+[\r\n]*|" + _WHITESPACE,
    )
)
DEEPSEEK_V2 = PreTokenizerRules(
    (
        r"[\r\n]",
        rf"\s?[{_CASED_LETTERS}]+",
        r"\s?[!-/:-~！-／：-～‘-‟\u3000-。]+",
        r"\s+$",
        r"[一-龥ࠀ-一가-퟿]+",
        r"\p{N}",
    )
)
LLAMA_3 = PreTokenizerRules(
    (_CONTRACTIONS + r"|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|" + _WHITESPACE,),
    whole_words=True,
)
QWEN_2 = PreTokenizerRules(
    (_CONTRACTIONS + r"|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|" + _WHITESPACE,), nfc=True
)
GPT_2 = PreTokenizerRules((_GPT2,))
SMOLLM = PreTokenizerRules((r"\p{N}", _GPT2))
DEEPSEEK_CODER = PreTokenizerRules((r"[\r\n]", r"\s?\p{L}+", r"\s?\p{P}+", r"[一-龥ࠀ-一가-퟿]+", r"\p{N}"))
DEFAULT = PreTokenizerRules((r"[\p{P}\$\+<=>\^~\|]+", _GPT2, r"\p{N}+", r"[0-9][0-9][0-9]"))

# The names that GGUF files give in `tokenizer.ggml.pre`.
BY_GGUF_NAME = {
    "default": DEFAULT,
    "gpt-2": GPT_2,
    "gpt2": GPT_2,
    "olmo": GPT_2,
    "smollm": SMOLLM,
    "starcoder": SMOLLM,
    "refact": SMOLLM,
    "qwen2": QWEN_2,
    "deepseek-r1-qwen": QWEN_2,
    "llama-bpe": LLAMA_3,
    "llama3": LLAMA_3,
    "llama-v3": LLAMA_3,
    "deepseek-llm": DEEPSEEK_V2,
    "deepseek-coder": DEEPSEEK_CODER,
    "deepseek-v3": DEEPSEEK_V3,
}


def pre_tokenizer(rules: PreTokenizerRules) -> PreTokenizer:
    """The rules as a stage of a `tokenizers.Tokenizer`; pieces come out spelled in byte-level characters."""
    splits: list[PreTokenizer] = [pre_tokenizers.Split(Regex(split), behavior="isolated") for split in rules.splits]
    return pre_tokenizers.Sequence([*splits, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])
