"""Tokenizers in Hugging Face folders: `tokenizer.json` and the small files around it."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import tokenizers
from tokenizers import AddedToken, decoders

from fathom.text.errors import TokenizerError
from fathom.text.tokenizer import ControlToken, Tokenizer, TokenizerSettings, is_control_spelling


def read_tokenizer_folder(folder: Path) -> Tokenizer:
    """Read a folder's tokenizer; `folder` may also be the path of the `tokenizer.json` itself."""
    file = folder if folder.name.endswith(".json") else folder / "tokenizer.json"
    if not file.is_file():
        raise TokenizerError(
            f"{folder} has no tokenizer.json. tokenizer.model and vocab.json are not read: "
            "save the tokenizer once with transformers' save_pretrained, which writes tokenizer.json."
        )
    backend = _backend(file)
    added: dict[int, AddedToken] = backend.get_added_tokens_decoder()
    control = {
        token.content: ControlToken(id, token.lstrip, token.rstrip)
        for id, token in added.items()
        if token.special or is_control_spelling(token.content)
    }
    # From here on the backend takes every control token for text: marked as special, then told to encode special ones.
    backend.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in control])
    backend.encode_special_tokens = True
    return Tokenizer(
        backend,
        literal={id: token.content for id, token in added.items()},
        control=control,
        vocab_size=max(backend.get_vocab(with_added_tokens=True).values(), default=-1) + 1,
        settings=_settings(file.parent, backend),
    )


def _backend(file: Path) -> tokenizers.Tokenizer:
    try:
        backend = tokenizers.Tokenizer.from_file(str(file))
    except Exception as error:
        raise TokenizerError(f"{file} is not a tokenizer.json that this version reads: {error}") from error
    if not isinstance(backend.decoder, decoders.ByteLevel):
        raise TokenizerError(
            f"{file} is not a byte-level vocabulary (its decoder is {type(backend.decoder).__name__}). Fathom reads "
            "byte-level BPE (DeepSeek, Qwen, Llama 3, SmolLM2 and their like), not SentencePiece (Llama 2)."
        )
    return backend


def _settings(folder: Path, backend: tokenizers.Tokenizer) -> TokenizerSettings:
    config = _read_json(folder / "tokenizer_config.json")
    named = _read_json(folder / "special_tokens_map.json") | {k: v for k, v in config.items() if v is not None}
    bos, eos = (_id(backend, named.get(key)) for key in ("bos_token", "eos_token"))
    model = _read_json(folder / "config.json")
    generation = _read_json(folder / "generation_config.json")
    stops = [*_ids(model.get("eos_token_id")), *_ids(generation.get("eos_token_id"))]
    return TokenizerSettings(
        bos_id=bos if bos is not None else next(iter(_ids(model.get("bos_token_id"))), None),
        eos_id=eos if eos is not None else next(iter(stops), None),
        add_bos=bool(config.get("add_bos_token", False)),
        more_stop_ids=frozenset(stops),
        chat_template=_chat_template(folder, config),
    )


def _chat_template(folder: Path, config: Mapping[str, Any]) -> str | None:
    file = folder / "chat_template.jinja"
    if file.is_file():
        return file.read_text(encoding="utf-8")
    template = config.get("chat_template")
    if isinstance(template, list):  # several named templates, as transformers once wrote them
        template = {entry["name"]: entry["template"] for entry in template}.get("default")
    return template if isinstance(template, str) else None


def _read_json(file: Path) -> dict[str, Any]:
    if not file.is_file():
        return {}
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except (UnicodeDecodeError, json.JSONDecodeError) as error:
        raise TokenizerError(f"{file} is damaged: {error}") from error
    if not isinstance(content, dict):
        raise TokenizerError(f"{file} should hold a JSON object")
    return content


def _id(backend: tokenizers.Tokenizer, token: object) -> int | None:
    """The id of a token given as a string or as a dumped AddedToken."""
    name = token.get("content") if isinstance(token, dict) else token
    if not isinstance(name, str):
        return None
    id: int | None = backend.token_to_id(name)
    return id


def _ids(value: object) -> list[int]:
    """`eos_token_id` is a number, a list of numbers, or nothing."""
    values = value if isinstance(value, list) else [value]
    return [id for id in values if isinstance(id, int)]
