"""Tokenizers from the metadata of a GGUF file (keys `tokenizer.*`, as llama.cpp writes them)."""

from collections.abc import Mapping, Sequence
from typing import Any

import tokenizers
from tokenizers import AddedToken, decoders, models, normalizers

from fathom.text.errors import TokenizerError
from fathom.text.pretokenizers import BY_GGUF_NAME, PreTokenizerRules, pre_tokenizer
from fathom.text.tokenizer import ControlToken, Tokenizer, TokenizerSettings, is_control_spelling

# llama.cpp's token types (llama_token_type); normal and byte tokens are spelled in byte-level characters.
_UNKNOWN, _CONTROL, _USER_DEFINED, _UNUSED = 2, 3, 4, 5


def read_gguf_tokenizer(metadata: Mapping[str, object]) -> Tokenizer:
    """Build a tokenizer from GGUF metadata. Raises TokenizerError for other kinds than byte-level BPE ("gpt2")."""
    kind = metadata.get("tokenizer.ggml.model")
    if kind != "gpt2":
        raise TokenizerError(
            f"this file's tokenizer is of the kind {kind!r}; Fathom reads byte-level BPE ('gpt2'), which DeepSeek, "
            "Qwen, Llama 3 and SmolLM2 use. SentencePiece models ('llama') need another engine."
        )
    rules = _rules(metadata)
    tokens: Sequence[str] = _list(metadata, "tokenizer.ggml.tokens")
    types: Sequence[int] = (
        _list(metadata, "tokenizer.ggml.token_type") if "tokenizer.ggml.token_type" in metadata else []
    )
    if types and len(types) != len(tokens):
        raise TokenizerError(f"the GGUF file lists {len(tokens)} tokens but {len(types)} token types")
    literal = {id: tokens[id] for id, type in enumerate(types) if type in (_UNKNOWN, _CONTROL, _USER_DEFINED, _UNUSED)}
    control = {
        token: ControlToken(id)
        for id, token in literal.items()
        if types[id] in (_UNKNOWN, _CONTROL) or (types[id] == _USER_DEFINED and is_control_spelling(token))
    }
    words = [token for id, token in literal.items() if types[id] == _USER_DEFINED and token not in control]
    return Tokenizer(
        _backend(tokens, literal, words, _list(metadata, "tokenizer.ggml.merges"), rules),
        literal=literal,
        control=control,
        vocab_size=len(tokens),
        settings=_settings(metadata),
    )


def _backend(
    tokens: Sequence[str],
    literal: Mapping[int, str],
    words: Sequence[str],
    merges: Sequence[str],
    rules: PreTokenizerRules,
) -> tokenizers.Tokenizer:
    """The encoder. Literal tokens stay out of the merges' vocabulary, except the words that plain text may contain."""
    spelled = set(words)
    vocabulary = {token: id for id, token in enumerate(tokens) if id not in literal or token in spelled}
    try:
        pairs = [(merge[:cut], merge[cut + 1 :]) for merge in merges if (cut := merge.index(" ", 1))]
        model = models.BPE(vocab=vocabulary, merges=pairs, ignore_merges=rules.whole_words)
    except Exception as error:
        raise TokenizerError(f"the GGUF file's merges do not fit its tokens: {error}") from error
    backend = tokenizers.Tokenizer(model)
    if rules.nfc:
        backend.normalizer = normalizers.NFC()
    backend.pre_tokenizer = pre_tokenizer(rules)
    backend.decoder = decoders.ByteLevel()
    backend.add_tokens([AddedToken(word, normalized=False) for word in words])
    return backend


def _rules(metadata: Mapping[str, object]) -> PreTokenizerRules:
    name = metadata.get("tokenizer.ggml.pre", "default")
    if not isinstance(name, str) or name not in BY_GGUF_NAME:
        raise TokenizerError(
            f"the GGUF file cuts words by the rules {name!r}, which Fathom does not know; it knows "
            f"{', '.join(sorted(BY_GGUF_NAME))}. With other rules the ids would be wrong, so it stops here."
        )
    return BY_GGUF_NAME[name]


def _settings(metadata: Mapping[str, object]) -> TokenizerSettings:
    template = metadata.get("tokenizer.chat_template")
    ends = (_id(metadata, f"tokenizer.ggml.{end}_token_id") for end in ("eos", "eot", "eom"))
    return TokenizerSettings(
        bos_id=_id(metadata, "tokenizer.ggml.bos_token_id"),
        eos_id=_id(metadata, "tokenizer.ggml.eos_token_id"),
        # llama.cpp begins with BOS by default only where the rules are Llama 3's.
        add_bos=bool(metadata.get("tokenizer.ggml.add_bos_token", metadata.get("tokenizer.ggml.pre") == "llama-bpe")),
        more_stop_ids=frozenset(id for id in ends if id is not None),
        chat_template=template if isinstance(template, str) else None,
    )


def _list(metadata: Mapping[str, object], key: str) -> Any:
    value = metadata.get(key)
    if not isinstance(value, Sequence) or isinstance(value, str):
        raise TokenizerError(f"the GGUF file has no {key}, which a tokenizer needs")
    return value


def _id(metadata: Mapping[str, object], key: str) -> int | None:
    value = metadata.get(key)
    return value if isinstance(value, int) else None
