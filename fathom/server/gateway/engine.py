"""An engine whose models are elsewhere: every route of this server works in front of any OpenAI-compatible one.

Requests keep their conversation; it is sent on as a chat completion, and what streams back becomes an engine's events.
Until the first of them, a failure is made good by another upstream. One thread's event loop does all network work.
"""

import asyncio
import contextlib
import json
import logging
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import httpx

from fathom.engine import Engine
from fathom.engine.defaults import GenerationDefaults
from fathom.engine.engine import Ticket
from fathom.engine.errors import InvalidRequestError, QueueFull
from fathom.engine.request import EngineEvent, Finished, OnEvent, Request, Timings
from fathom.engine.stats import Counts, EngineLimits, EngineStats, Load
from fathom.server.gateway.reading import Reader, UpstreamFailedError, chunks_of, refusal_of
from fathom.server.gateway.tokens import GivenParams, UpstreamPrompt, UpstreamTemplate, UpstreamTokenizer, Words
from fathom.server.gateway.upstreams import CHECK_SECONDS, Upstream, check_all, route
from fathom.text import Channel, Message, Tool

if TYPE_CHECKING:
    from fathom.server.forms import Form

log = logging.getLogger("fathom.server")

_CONNECT_SECONDS = 5.0
_SILENCE_SECONDS = 600.0  # DeepSeek closes a connection whose inference has not begun in ten minutes
_PREFIX = 1024  # characters of a conversation's beginning that decide where it goes
_UNKNOWN_CONTEXT = 131_072
_RETRIED = (408, 429, 500, 502, 503, 504)
# Names of the sampling parameters that OpenAI's API has, and of those that only servers of open models take.
_STANDARD = ("temperature", "top_p", "presence_penalty", "frequency_penalty", "seed", "stop", "logit_bias")
_EXTENDED = ("top_k", "min_p", "repetition_penalty", "ignore_eos")


@dataclass(frozen=True, slots=True)
class Refused(Finished):
    """The end of a request that no upstream would or could answer; `status` is for the client."""

    status: int = 503


@dataclass(frozen=True, slots=True)
class UpstreamForm:
    """The form of an answer in the fields of a chat completion: the upstream enforces it."""

    fields: Mapping[str, Any]


class UpstreamDefaults(GenerationDefaults):
    """The upstream's, which are not known here."""

    def params(self, **given: Any) -> GivenParams:
        """What the client gave, and which of it."""
        known = {name: value for name, value in given.items() if value is not None}
        return GivenParams(**known, given=frozenset(known))


class UpstreamTicket(Ticket):
    """The caller's end of a request under way elsewhere."""

    def __init__(self, stop: Callable[[], None]) -> None:
        self._stop = stop

    def cancel(self) -> None:
        """Close the connection to the upstream, which then ends the request."""
        self._stop()

    def position(self) -> int:
        """The upstream's queue is not seen from here."""
        return 0

    def answer_now(self) -> None:
        """A thought elsewhere cannot be ended from here."""


class UpstreamEngine(Engine):
    """See the module. Raises ValueError when no upstream can be reached at first."""

    is_remote = True

    def __init__(
        self, upstreams: Sequence[Upstream], *, key: str | None = None, limits: EngineLimits | None = None
    ) -> None:
        self.upstreams = upstreams
        self.words = Words()
        self.tokenizer = UpstreamTokenizer(self.words)  # type: ignore[assignment]
        self.template: Any = UpstreamTemplate()
        self.defaults = UpstreamDefaults()
        self.config = None
        self.runner: Any = _Elsewhere()
        self._limits = limits or EngineLimits(max_running=1024)
        self._counts = Counts()
        self._running: set[asyncio.Task[None]] = set()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="fathom-gateway", daemon=True)
        self._thread.start()
        headers = {"authorization": f"Bearer {key}"} if key else {}
        timeout = httpx.Timeout(_SILENCE_SECONDS, connect=_CONNECT_SECONDS)
        pool = httpx.Limits(max_connections=None, max_keepalive_connections=64)
        self._client = httpx.AsyncClient(headers=headers, timeout=timeout, limits=pool, trust_env=False)
        asyncio.run_coroutine_threadsafe(check_all(self._client, upstreams), self._loop).result()
        well = [upstream for upstream in upstreams if upstream.well]
        if not well:
            self.close()
            raise ValueError("; ".join(f"{upstream.url}: {upstream.trouble}" for upstream in upstreams))
        self.model_name = well[0].model or "upstream"
        self.template.thinks = any(upstream.thinks for upstream in well)
        self.max_tokens = min(upstream.context or _UNKNOWN_CONTEXT for upstream in well)
        self._checking = asyncio.run_coroutine_threadsafe(self._check_for_ever(), self._loop)

    def render(
        self, messages: Sequence[Message], *, tools: Sequence[Tool] = (), thinking: bool = False
    ) -> UpstreamPrompt:
        """The conversation as it is, with an estimate of its length."""
        from fathom.text.messages import validate_conversation

        validate_conversation(messages, tools)
        text = "\n\n".join(message.content or "" for message in messages)
        described = "".join(json.dumps(tool.as_json()) for tool in tools)
        length = len(self.tokenizer.encode(text + described))
        channel: Channel = "thought" if thinking else "answer"
        return UpstreamPrompt(
            (0,) * length, text, channel, bool(tools), messages=messages, offered=tools, thinking=thinking
        )

    def plain_prompt(self, prompt: str | Sequence[int], suffix: str | None = None) -> UpstreamPrompt:
        """A text that is continued as it stands; with a suffix, the middle between both."""
        plain = prompt if isinstance(prompt, str) else tuple(prompt)
        length = len(self.tokenizer.encode(plain)) if isinstance(plain, str) else len(plain)
        text = plain if isinstance(plain, str) else ""
        return UpstreamPrompt((0,) * length, text, "answer", plain=plain, suffix=suffix)

    def form(self, form: "Form") -> Any:
        """What a chat completion says of the answer's form."""
        fields: dict[str, Any] = {}
        if form.schema is not None:
            schema = {"name": "answer", "schema": form.schema, "strict": True}
            fields["response_format"] = (
                {"type": "json_schema", "json_schema": schema} if form.shown else {"type": "json_object"}
            )
        if form.offered and form.choice != "auto":
            named = {"type": "function", "function": {"name": form.choice[0]}}
            fields["tool_choice"] = named if isinstance(form.choice, tuple) else form.choice
        if form.offered and not form.parallel:
            fields["parallel_tool_calls"] = False
        return UpstreamForm(fields) if fields else None

    def submit(self, request: Request, on_event: OnEvent) -> Ticket:
        """Send a request to an upstream; its events go to `on_event`, the last one is always Finished."""
        if not isinstance(request.prompt, UpstreamPrompt):
            raise InvalidRequestError("this prompt was made by another engine")
        if request.params.prompt_logprobs is not None:
            raise InvalidRequestError(
                "log probabilities of prompts are not to be had through a gateway: leave out echo"
            )
        if len(self._running) >= self._limits.max_running:
            raise QueueFull(f"{len(self._running)} requests are under way; try again later")
        self._counts.requests += 1
        started: list[asyncio.Task[None]] = []

        def start() -> None:
            task = self._loop.create_task(self._answer(request, on_event))
            started.append(task)
            self._running.add(task)
            task.add_done_callback(self._running.discard)

        def stop() -> None:
            with contextlib.suppress(RuntimeError):  # the loop is closed: everything has ended
                self._loop.call_soon_threadsafe(lambda: [task.cancel() for task in started])

        self._loop.call_soon_threadsafe(start)
        return UpstreamTicket(stop)

    def stats(self) -> EngineStats:
        """How busy the upstreams are with what came from here."""
        well = [upstream for upstream in self.upstreams if upstream.takes_requests]
        failure = None if well else "; ".join(f"{one.url}: {one.trouble}" for one in self.upstreams)
        load = Load(bool(well), failure, len(self._running), 0, 0, 1, 0, 0, 0, replace(self._counts))
        policy = {
            f"upstream {number}": f"{one.url} ({one.model}), weight {one.weight:g}, {one.running} under way, "
            f"{one.served['finished']} finished, {one.served['failed']} failed, {one.trouble or 'well'}"
            for number, one in enumerate(self.upstreams)
        }
        return EngineStats(self.model_name, "gateway", self.max_tokens, 1, 0, policy, self._limits, load)

    def close(self, *, drain: bool = False) -> None:
        """End everything that is under way, or with `drain` let it finish."""
        if self._loop.is_closed():
            return
        asyncio.run_coroutine_threadsafe(self._close(drain=drain), self._loop).result()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    async def _close(self, *, drain: bool) -> None:
        running = list(self._running)
        if not drain:
            for task in running:
                task.cancel()
        await asyncio.gather(*running, return_exceptions=True)
        checking = getattr(self, "_checking", None)
        if checking is not None:
            checking.cancel()
        await self._client.aclose()

    async def _check_for_ever(self) -> None:
        while True:
            await asyncio.sleep(CHECK_SECONDS)
            await check_all(self._client, self.upstreams)

    async def _answer(self, request: Request, on_event: OnEvent) -> None:
        """Ask one upstream after another until one begins to answer."""
        began = time.monotonic()
        first: list[float] = []
        reader = Reader(self.words, len(request.prompt.ids))

        def send(event: EngineEvent) -> None:
            first.append(time.monotonic())
            on_event(event)

        end: Finished | None = None
        try:
            failure = await self._try_all(request, reader, send)
        except asyncio.CancelledError:
            failure = None
            end = self._finished(reader, "cancelled", began, first)
        if end is None and failure is not None:
            end = Refused("error", reader.usage(), _timings(began, first), error=str(failure), status=failure.status)
        end = end or self._finished(reader, reader.reason or "stop", began, first)
        self._counts.finish(end.reason, end.usage.prompt_tokens, end.usage.cached_tokens, end.usage.prompt_tokens)
        on_event(end)

    def _finished(self, reader: Reader, reason: Any, began: float, first: Sequence[float]) -> Finished:
        return Finished(reason, reader.usage(), _timings(began, first))

    async def _try_all(
        self, request: Request, reader: Reader, send: Callable[[EngineEvent], None]
    ) -> UpstreamFailedError | None:
        """None when an upstream answered; otherwise why the last one did not."""
        prompt = request.prompt
        assert isinstance(prompt, UpstreamPrompt)
        failure = UpstreamFailedError("no upstream is well at the moment: try again shortly")
        for upstream in route(self.upstreams, f"{request.salt}\0{prompt.text[:_PREFIX]}"):
            upstream.running += 1
            reader.reason = None
            try:
                await self._ask(upstream, request, prompt, reader, send)
            except (httpx.HTTPError, UpstreamFailedError, LookupError, TypeError, AttributeError, ValueError) as error:
                failure = error if isinstance(error, UpstreamFailedError) else UpstreamFailedError(_describe(error))
                if failure.status in _RETRIED:
                    upstream.failed(str(failure))
                if reader.has_begun or failure.status not in _RETRIED:
                    return failure
            else:
                upstream.served["finished"] += 1
                return None
            finally:
                upstream.running -= 1
        return failure

    async def _ask(
        self,
        upstream: Upstream,
        request: Request,
        prompt: UpstreamPrompt,
        reader: Reader,
        send: Callable[[EngineEvent], None],
    ) -> None:
        path, body = _body(upstream, request, prompt)
        async with self._client.stream("POST", f"{upstream.url}/{path}", json=body) as response:
            if response.status_code != 200:
                raise await refusal_of(response)
            async for chunk in chunks_of(response):
                for event in reader.events(chunk):
                    send(event)
        if reader.reason is None:
            raise UpstreamFailedError("its answer has no end")


class _Elsewhere:
    """What stands in for a runner."""

    name = "gateway"


def _body(upstream: Upstream, request: Request, prompt: UpstreamPrompt) -> tuple[str, dict[str, Any]]:
    """Path and body of what an upstream is asked."""
    params = request.params
    given = params.given if isinstance(params, GivenParams) else frozenset(_STANDARD)
    body: dict[str, Any] = {"model": upstream.model, "stream": True, "stream_options": {"include_usage": True}}
    for name in (*_STANDARD, *_EXTENDED):
        value = getattr(params, name)
        if name in given and value not in (None, (), {}, False):
            body[name] = {str(token): bias for token, bias in value.items()} if name == "logit_bias" else value
    if params.max_tokens is not None:
        body["max_tokens"] = params.max_tokens
    if request.salt is not None and upstream.owner in ("fathom", "deepseek"):
        body["user_id"] = request.salt
    if prompt.plain is not None:
        body |= {"prompt": prompt.plain, **({} if prompt.suffix is None else {"suffix": prompt.suffix})}
        return "completions", body
    if params.logprobs is not None:
        body |= {"logprobs": True, "top_logprobs": params.logprobs}
    body["messages"] = [_message(message) for message in prompt.messages]
    if prompt.offered:
        body["tools"] = [{"type": "function", "function": tool.as_json()} for tool in prompt.offered]
    form: object = request.constraint
    if isinstance(form, UpstreamForm):
        body |= form.fields
    return "chat/completions", body | _thinking(upstream, prompt)


def _thinking(upstream: Upstream, prompt: UpstreamPrompt) -> dict[str, Any]:
    """How this kind of server is told whether to think."""
    if upstream.owner in ("fathom", "deepseek"):
        return {"thinking": {"type": "enabled" if prompt.thinking else "disabled"}}
    if upstream.owner in ("vllm", "sglang", "llamacpp"):
        return {"chat_template_kwargs": {"thinking": prompt.thinking, "enable_thinking": prompt.thinking}}
    return {}


def _message(message: Message) -> dict[str, Any]:
    shown: dict[str, Any] = {"role": message.role, "content": message.content}
    for name in ("reasoning_content", "tool_call_id", "name"):
        if getattr(message, name) is not None:
            shown[name] = getattr(message, name)
    if message.tool_calls:
        shown["tool_calls"] = [
            {"id": call.id, "type": "function", "function": {"name": call.name, "arguments": call.arguments}}
            for call in message.tool_calls
        ]
    if message.prefix:
        shown["prefix"] = True
    return shown


def _timings(began: float, first: Sequence[float]) -> Timings:
    now = time.monotonic()
    begun = first[0] - began if first else None
    seconds = first[-1] - first[0] if first else 0.0
    rate = (len(first) - 1) / seconds if seconds > 0 else None
    return Timings(0.0 if first else None, begun, now - began, None, rate)


def _describe(error: Exception) -> str:
    return f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
