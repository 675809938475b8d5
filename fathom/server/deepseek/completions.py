"""POST /completions: continue raw text or token ids; with `suffix`, fill the middle (DeepSeek's FIM beta).

Source: https://api-docs.deepseek.com/api/create-completion.
"""

import asyncio
import time
import uuid
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from starlette.responses import Response

from fathom.engine import Engine
from fathom.engine.request import Finished, Request, TokenLogprobs, Usage
from fathom.server.answers import respond
from fathom.server.config import ServerConfig
from fathom.server.deepseek.accounts import FINISH_REASONS, TokenBytes, fingerprint, usage_json
from fathom.server.deepseek.answers import choices, includes_usage, sampling_params
from fathom.server.deepseek.fields import CompletionFields
from fathom.server.dialects import Chunk
from fathom.server.errors import bad_request, invalid
from fathom.server.generation import Generation
from fathom.server.models import DEFAULT_MAX_TOKENS, mode_of
from fathom.server.searched import ServerEvent
from fathom.server.service import Service
from fathom.text import Answer

# Names of the three FIM tokens by family: DeepSeek (V2 report, section 3.1), Qwen2.5-Coder, StarCoder and SmolLM2.
FIM_TOKENS = (
    ("<｜fim▁begin｜>", "<｜fim▁hole｜>", "<｜fim▁end｜>"),
    ("<|fim_prefix|>", "<|fim_suffix|>", "<|fim_middle|>"),
    ("<fim_prefix>", "<fim_suffix>", "<fim_middle>"),
)


async def answer_completion(
    engine: Engine, service: Service, config: ServerConfig, fields: CompletionFields
) -> Response:
    """The response to a text completion; every refusal is an ApiError raised before the first header."""
    mode_of(fields.model, engine.model_name)
    request, echo = await asyncio.to_thread(engine_request, fields, engine)
    n = fields.n or 1
    generation = Generation(service, engine, choices(request, n), fields.model)
    maker = TextChunks(
        fields.model,
        fingerprint(engine.model_name, engine.runner.name),
        engine.tokenizer.token_bytes,
        echo=echo,
        n=n,
        include_usage=includes_usage(fields),
    )
    return respond(generation, maker, config, stream=bool(fields.stream), warnings=[])


def engine_request(fields: CompletionFields, engine: Engine) -> tuple[Request, str]:
    """The engine's request and the text that `echo` repeats before the answer."""
    if fields.echo and fields.logprobs is not None:
        raise bad_request("This version has no log probabilities of the prompt: leave out echo or logprobs", "logprobs")
    prompt = engine.plain_prompt(_prompt(fields, engine))
    params = sampling_params(fields, engine.defaults, fields.max_tokens or DEFAULT_MAX_TOKENS, fields.logprobs)
    return Request(prompt, params, plain=True, salt=fields.user_id), prompt.text if fields.echo else ""


def _prompt(fields: CompletionFields, engine: Engine) -> str | list[int]:
    """Text or ids to continue; with a suffix, in the order and between the tokens that the model was trained on."""
    if fields.suffix is None:
        return fields.prompt
    if not isinstance(fields.prompt, str):
        raise invalid("suffix needs a prompt of text, not of token ids", "suffix")
    tokenizer = engine.tokenizer
    for names in FIM_TOKENS:
        begin, hole, end = (tokenizer.id_of(name) for name in names)
        if begin is not None and hole is not None and end is not None:
            return [begin, *tokenizer.encode(fields.prompt), hole, *tokenizer.encode(fields.suffix), end]
    raise bad_request(
        f"{engine.model_name} was not trained to fill the middle (its vocabulary has no FIM tokens): leave out suffix",
        "suffix",
    )


@dataclass(slots=True)
class _Choice:
    """One choice: whether its echo was sent, the length of its text, log probabilities of tokens not yet shown."""

    begun: bool = False
    length: int = 0
    logprobs: list[TokenLogprobs] = field(default_factory=list)


class TextChunks:
    """Makes the `text_completion` chunks of one request, and their sum."""

    def __init__(
        self,
        model: str,
        fingerprint: str,
        token_bytes: TokenBytes,
        *,
        echo: str,
        n: int = 1,
        include_usage: bool = False,
    ) -> None:
        self._head = {
            "id": f"cmpl-{uuid.uuid4().hex}",
            "object": "text_completion",
            "created": int(time.time()),
            "model": model,
            "system_fingerprint": fingerprint,
        }
        self._token_bytes = token_bytes
        self._echo = echo
        self._include_usage = include_usage
        self._choices = [_Choice(length=len(echo)) for _ in range(n)]
        self._usages: list[Usage] = []

    def chunks(self, choice: int, event: ServerEvent) -> list[Chunk]:
        """The chunks that `event` adds to the stream."""
        if isinstance(event, TokenLogprobs):
            self._choices[choice].logprobs.append(event)
        if isinstance(event, Answer):
            return [self._chunk(choice, event.text, None)]
        if isinstance(event, Finished):
            return self._last(choice, event)
        return []

    def whole(self, chunks: Iterable[Chunk]) -> dict[str, Any]:
        """The answer whose streamed form these chunks are."""
        completion: dict[str, Any] = {**self._head, "choices": []}
        sums: dict[int, dict[str, Any]] = {}
        for chunk in chunks:
            completion["usage"] = chunk.get("usage") or completion.get("usage")
            for one in chunk["choices"]:
                if one["index"] not in sums:
                    sums[one["index"]] = one
                else:
                    _add(sums[one["index"]], one)
        completion["choices"] = [sums[index] for index in sorted(sums)]
        return completion

    def _last(self, choice: int, finished: Finished) -> list[Chunk]:
        self._usages.append(finished.usage)
        end = self._chunk(choice, "", FINISH_REASONS[finished.reason])
        if len(self._usages) < len(self._choices):
            return [end]
        usage = usage_json(self._usages)
        if self._include_usage:
            return [end, {**self._head, "choices": [], "usage": usage}]
        end["usage"] = usage
        return [end]

    def _chunk(self, index: int, text: str, finish_reason: str | None) -> Chunk:
        choice = self._choices[index]
        logprobs = self._logprobs(choice)
        choice.length += len(text)
        if not choice.begun:
            text = self._echo + text
            choice.begun = True
        one = {"index": index, "text": text, "logprobs": logprobs, "finish_reason": finish_reason}
        chunk = {**self._head, "choices": [one]}
        if self._include_usage:
            chunk["usage"] = None
        return chunk

    def _logprobs(self, choice: _Choice) -> dict[str, list[Any]] | None:
        """OpenAI's older form: parallel lists; offsets count characters of the text from its beginning."""
        if not choice.logprobs:
            return None
        tokens = [self._name(event.token) for event in choice.logprobs]
        offsets = [choice.length + sum(map(len, tokens[:position])) for position in range(len(tokens))]
        top = [{self._name(token): logprob for token, logprob in event.alternatives} for event in choice.logprobs]
        values = [event.logprob for event in choice.logprobs]
        choice.logprobs = []
        return {"tokens": tokens, "token_logprobs": values, "top_logprobs": top, "text_offset": offsets}

    def _name(self, token: int) -> str:
        return self._token_bytes(token).decode("utf-8", "replace")


def _add(choice: dict[str, Any], one: dict[str, Any]) -> None:
    choice["text"] += one["text"]
    choice["finish_reason"] = one["finish_reason"] or choice["finish_reason"]
    if one["logprobs"]:
        if choice["logprobs"] is None:
            choice["logprobs"] = one["logprobs"]
        else:
            for name, values in one["logprobs"].items():
                choice["logprobs"][name] += values
