"""Text to token ids and back.

Three rules hold everywhere. `encode` never yields a control token, whatever the text says: control tokens enter a
prompt only through a template, by name. Every token stands for bytes, and decoding joins bytes, so nothing depends on
how tokens happen to be cut. Nothing is clipped or padded.
"""

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import tokenizers

from fathom.text.errors import TokenizerError

# Tokens by which published models end a turn or a text; those that a vocabulary has as control tokens stop generation.
END_TOKENS = (
    "<｜end▁of▁sentence｜>",
    "<|im_end|>",
    "<|eot_id|>",
    "<|eom_id|>",
    "<|end_of_text|>",
    "<|endoftext|>",
    "<|EOT|>",
    "<|end|>",
    "<end_of_turn>",
    "</s>",
)
_SURROGATE = re.compile("[\ud800-\udfff]")


@dataclass(frozen=True, slots=True)
class ControlToken:
    """A token that steers the model. `strips_left` and `_right`: white space beside it belongs to it."""

    id: int
    strips_left: bool = False
    strips_right: bool = False


@dataclass(frozen=True, slots=True)
class TokenizerSettings:
    """What a checkpoint says about its tokenizer beside the vocabulary."""

    bos_id: int | None = None
    eos_id: int | None = None
    add_bos: bool = False
    more_stop_ids: frozenset[int] = frozenset()
    chat_template: str | None = None


def is_control_spelling(token: str) -> bool:
    """Whether an added token that is not marked special still steers the model: `<think>`, `<｜User｜>`, `[INST]`.

    Published vocabularies leave the mark off tokens that clients want to see, so the spelling decides.
    """
    return len(token) > 2 and (token[0], token[-1]) in {("<", ">"), ("[", "]")}


class Tokenizer:
    """A byte-level BPE vocabulary with its control tokens.

    `backend` encodes text and must already take control tokens for text; `literal` holds the tokens that are spelled as
    they are rather than in byte-level characters (all added tokens), by id; `control` the control tokens by name.
    """

    def __init__(
        self,
        backend: tokenizers.Tokenizer,
        *,
        literal: Mapping[int, str],
        control: Mapping[str, ControlToken],
        vocab_size: int,
        settings: TokenizerSettings,
    ) -> None:
        backend.no_truncation()
        backend.no_padding()
        self._backend = backend
        self._literal = literal
        self.control = control
        self.vocab_size = vocab_size
        self.bos_id = settings.bos_id
        self.eos_id = settings.eos_id
        self.add_bos = settings.add_bos
        self.chat_template = settings.chat_template
        ends = {control[token].id for token in END_TOKENS if token in control}
        ends |= {id for id in (settings.eos_id,) if id is not None}
        self.stop_ids = frozenset(ends | settings.more_stop_ids)

    @staticmethod
    def from_folder(path: str | Path) -> "Tokenizer":
        """Read `tokenizer.json` and what stands beside it. Raises TokenizerError where something is missing."""
        from fathom.text.tokenizer_folder import read_tokenizer_folder

        return read_tokenizer_folder(Path(path))

    @staticmethod
    def from_gguf(metadata: Mapping[str, object]) -> "Tokenizer":
        """Build from the `tokenizer.*` keys of a GGUF file. Raises TokenizerError for kinds it does not read."""
        from fathom.text.gguf_tokenizer import read_gguf_tokenizer

        return read_gguf_tokenizer(metadata)

    def encode(self, text: str) -> list[int]:
        """The ids of plain text: no token is added, and no control token comes out.

        Half surrogate pairs (which clients that cut by UTF-16 send) become U+FFFD, since they are not characters.
        """
        if _SURROGATE.search(text):
            text = _SURROGATE.sub("\ufffd", text)
        ids: list[int] = self._backend.encode(text, add_special_tokens=False).ids
        return ids

    def encode_control(self, text: str) -> list[int]:
        """The ids of trusted text, such as a template's: control tokens are recognised in it."""
        return [
            id
            for piece in self.split_control(text)
            for id in ([piece] if isinstance(piece, int) else self.encode(piece))
        ]

    def split_control(self, text: str) -> Iterator[str | int]:
        """Trusted text as a sequence of plain text and ids of control tokens; the leftmost, longest token wins."""
        start = 0
        for match in self.control_pattern.finditer(text) if self.control else ():
            token = self.control[match.group()]
            before = text[start : match.start()]
            before = before.rstrip() if token.strips_left else before
            if before:
                yield before
            yield token.id
            start = match.end()
            while token.strips_right and start < len(text) and text[start].isspace():
                start += 1
        if text[start:]:
            yield text[start:]

    @cached_property
    def control_pattern(self) -> re.Pattern[str]:
        """Matches any control token, the longest first."""
        return re.compile("|".join(re.escape(token) for token in sorted(self.control, key=len, reverse=True)))

    def token_bytes(self, id: int) -> bytes:
        """The bytes a token stands for; none for ids that a model's padded vocabulary has and the tokenizer has not."""
        if (literal := self._literal.get(id)) is not None:
            return literal.encode()
        if id < 0:
            raise TokenizerError(f"token ids are not negative, but {id} is")
        token = self._backend.id_to_token(id)
        if token is None:
            return b""
        try:
            return bytes(_BYTE_OF_CHARACTER[character] for character in token)
        except KeyError:
            return str(token).encode()

    def decode_bytes(self, ids: Iterable[int]) -> bytes:
        """The bytes of all ids, control tokens included, joined."""
        return b"".join(self.token_bytes(id) for id in ids)

    def decode(self, ids: Iterable[int]) -> str:
        """The text of all ids, control tokens included; bytes that are not UTF-8 become U+FFFD."""
        return self.decode_bytes(ids).decode("utf-8", errors="replace")

    def id_of(self, token: str) -> int | None:
        """The id of a token by its spelling in the vocabulary, or None."""
        if token in self.control:
            return self.control[token].id
        id: int | None = self._backend.token_to_id(token)
        return id

    def control_id(self, token: str) -> int | None:
        """The id of a control token, or None where the vocabulary has no such control token."""
        return self.control[token].id if token in self.control else None


def _character_of_byte() -> dict[int, str]:
    """GPT-2's spelling of bytes: printable Latin-1 stands for itself, the rest for U+0100 and up, in order."""
    printable = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    others = [byte for byte in range(256) if byte not in printable]
    return {byte: chr(byte) for byte in printable} | {byte: chr(0x100 + n) for n, byte in enumerate(others)}


_BYTE_OF_CHARACTER = {character: byte for byte, character in _character_of_byte().items()}
