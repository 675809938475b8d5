"""POST /completions: continue raw text or token ids; with `suffix`, fill the middle (DeepSeek's FIM beta).

Source: https://api-docs.deepseek.com/api/create-completion.
"""

import asyncio
import time
import uuid
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from functools import reduce
from typing import Any

from starlette.responses import Response

from fathom.engine import Engine
from fathom.engine.request import Finished, PromptLogprobs, Request, TokenLogprobs, Usage
from fathom.server.answers import respond
from fathom.server.config import ServerConfig
from fathom.server.deepseek.accounts import FINISH_REASONS, TokenBytes, fingerprint, usage_json
from fathom.server.deepseek.answers import choices, includes_usage, sampling_params
from fathom.server.deepseek.fields import CompletionFields
from fathom.server.dialects import Chunk
from fathom.server.errors import bad_request, invalid
from fathom.server.gateway.engine import UpstreamEngine
from fathom.server.generation import Generation
from fathom.server.models import DEFAULT_MAX_TOKENS, mode_of
from fathom.server.searched import ServerEvent
from fathom.server.service import Service
from fathom.text import Answer, Prompt

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
    requests = await asyncio.to_thread(engine_requests, fields, engine)
    n = fields.n or 1
    all_choices = [choice for request in requests for choice in choices(request, n)]
    generation = Generation(service, engine, all_choices, fields.model, prompts=len(requests))
    maker = TextChunks(
        fields.model,
        fingerprint(engine.model_name, engine.runner.name),
        engine.tokenizer.token_bytes,
        prompts=[request.prompt for request in requests for _ in range(n)],
        n=n,
        echo=fields.echo,
        silent=fields.max_tokens == 0,
        include_usage=includes_usage(fields),
    )
    return respond(generation, maker, config, stream=bool(fields.stream), warnings=[])


def engine_requests(fields: CompletionFields, engine: Engine) -> list[Request]:
    """One request of the engine for each prompt."""
    params = sampling_params(
        fields,
        engine.defaults,
        DEFAULT_MAX_TOKENS if fields.max_tokens is None else fields.max_tokens or 1,
        fields.logprobs,
    )
    if fields.echo and fields.logprobs is not None:
        params = replace(params, prompt_logprobs=fields.logprobs)
    if isinstance(engine, UpstreamEngine):
        prompts: list[Prompt] = [engine.plain_prompt(prompt, fields.suffix) for prompt in fields.prompts]
    else:
        prompts = [engine.plain_prompt(_prompt(prompt, fields.suffix, engine)) for prompt in fields.prompts]
    return [Request(prompt, params, plain=True, salt=fields.user_id) for prompt in prompts]


def _prompt(prompt: str | list[int], suffix: str | None, engine: Engine) -> str | list[int]:
    """Text or ids to continue; with a suffix, in the order and between the tokens that the model was trained on."""
    if suffix is None:
        return prompt
    if not isinstance(prompt, str):
        raise invalid("suffix needs a prompt of text, not of token ids", "suffix")
    tokenizer = engine.tokenizer
    for names in FIM_TOKENS:
        begin, hole, end = (tokenizer.id_of(name) for name in names)
        if begin is not None and hole is not None and end is not None:
            return [begin, *tokenizer.encode(prompt), hole, *tokenizer.encode(suffix), end]
    raise bad_request(
        f"{engine.model_name} was not trained to fill the middle (its vocabulary has no FIM tokens): leave out suffix",
        "suffix",
    )


@dataclass(slots=True)
class _Choice:
    """One choice: whether it has begun, the length of its text, log probabilities of tokens not yet shown."""

    begun: bool = False
    length: int = 0
    logprobs: list[TokenLogprobs] = field(default_factory=list)
    shown: dict[str, list[Any]] | None = None  # those of the prompt, to be sent with the first chunk


class TextChunks:
    """Makes the `text_completion` chunks of one call, and their sum.

    `prompts` has one entry for each choice, `n` of them for each prompt. `echo`: the prompt comes first, with its
    tokens' log probabilities where those are asked for; `silent`: and nothing else.
    """

    def __init__(
        self,
        model: str,
        fingerprint: str,
        token_bytes: TokenBytes,
        *,
        prompts: Sequence[Prompt],
        n: int = 1,
        echo: bool = False,
        silent: bool = False,
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
        self._prompts = prompts
        self._n = n
        self._echo = echo
        self._silent = silent
        self._include_usage = include_usage
        self._choices = [_Choice(length=len(prompt.text) if echo else 0) for prompt in prompts]
        self._usages: dict[int, Usage] = {}

    def chunks(self, choice: int, event: ServerEvent) -> list[Chunk]:
        """The chunks that `event` adds to the stream."""
        if isinstance(event, PromptLogprobs):
            self._choices[choice].shown = self._prompt_logprobs(self._prompts[choice], event.tokens)
        if isinstance(event, Finished):
            return self._last(choice, event)
        if self._silent:
            return []
        if isinstance(event, TokenLogprobs):
            self._choices[choice].logprobs.append(event)
        if isinstance(event, Answer):
            return [self._chunk(choice, event.text, None)]
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
        self._usages[choice] = finished.usage
        reason = FINISH_REASONS[finished.reason]
        end = self._chunk(choice, "", "length" if self._silent and reason == "stop" else reason)
        if len(self._usages) < len(self._choices):
            return [end]
        usage = self._usage()
        if self._include_usage:
            return [end, {**self._head, "choices": [], "usage": usage}]
        end["usage"] = usage
        return [end]

    def _usage(self) -> dict[str, Any]:
        """Each prompt counts once, however many choices it has."""
        usages = [self._usages[index] for index in range(len(self._choices))]
        if self._silent:
            usages = [replace(usage, completion_tokens=0) for usage in usages]
        of_prompts = [usage_json(usages[start : start + self._n]) for start in range(0, len(usages), self._n)]
        return reduce(_sum_usage, of_prompts)

    def _chunk(self, index: int, text: str, finish_reason: str | None) -> Chunk:
        choice = self._choices[index]
        logprobs = self._logprobs(choice)
        choice.length += len(text)
        if not choice.begun:
            text = self._prompts[index].text + text if self._echo else text
            choice.begun = True
        one = {"index": index, "text": text, "logprobs": logprobs, "finish_reason": finish_reason}
        chunk = {**self._head, "choices": [one]}
        if self._include_usage:
            chunk["usage"] = None
        return chunk

    def _logprobs(self, choice: _Choice) -> dict[str, list[Any]] | None:
        """OpenAI's older form: parallel lists; offsets count characters of the text from its beginning."""
        shown, choice.shown = choice.shown, None
        if not choice.logprobs:
            return shown
        tokens = [self._name(event.token) for event in choice.logprobs]
        offsets = [choice.length + sum(map(len, tokens[:position])) for position in range(len(tokens))]
        made = {**self._lists(choice.logprobs), "text_offset": offsets}
        choice.logprobs = []
        return made if shown is None else {name: shown[name] + made[name] for name in made}

    def _prompt_logprobs(self, prompt: Prompt, scored: Sequence[TokenLogprobs]) -> dict[str, list[Any]]:
        """Those of the prompt's tokens; nothing comes before the first one, so it has none."""
        lists = self._lists(scored)
        first = self._name(prompt.ids[0])
        tokens = [first, *lists["tokens"]]
        return {
            "tokens": tokens,
            "token_logprobs": [None, *lists["token_logprobs"]],
            "top_logprobs": [None, *lists["top_logprobs"]],
            "text_offset": [sum(map(len, tokens[:position])) for position in range(len(tokens))],
        }

    def _lists(self, events: Sequence[TokenLogprobs]) -> dict[str, list[Any]]:
        """The chosen token is among the alternatives even where it is none of the most probable."""
        top = []
        for event in events:
            best = {self._name(token): logprob for token, logprob in event.alternatives}
            top.append({**best, self._name(event.token): event.logprob})
        tokens, values = [self._name(event.token) for event in events], [event.logprob for event in events]
        return {"tokens": tokens, "token_logprobs": values, "top_logprobs": top}

    def _name(self, token: int) -> str:
        return self._token_bytes(token).decode("utf-8", "replace")


def _sum_usage(one: dict[str, Any], other: dict[str, Any]) -> dict[str, Any]:
    return {
        name: _sum_usage(value, other[name]) if isinstance(value, dict) else value + other[name]
        for name, value in one.items()
    }


def _add(choice: dict[str, Any], one: dict[str, Any]) -> None:
    choice["text"] += one["text"]
    choice["finish_reason"] = one["finish_reason"] or choice["finish_reason"]
    if one["logprobs"]:
        if choice["logprobs"] is None:
            choice["logprobs"] = one["logprobs"]
        else:
            for name, values in one["logprobs"].items():
                choice["logprobs"][name] += values
