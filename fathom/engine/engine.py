"""The engine's face: requests from conversations or plain prompts, as events, as streams, or whole."""

import atexit
import threading
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from types import TracebackType
from typing import Any, Self

from fathom.engine.active import ActiveRequest
from fathom.engine.constraint import Constraint, ConstraintState, Grammars
from fathom.engine.conversation import Completion, Messages, as_messages, collect
from fathom.engine.core import ActiveSequence, EngineCore
from fathom.engine.defaults import GenerationDefaults
from fathom.engine.errors import InvalidRequestError, PromptTooLongError
from fathom.engine.mailbox import AsyncMailbox, Mailbox
from fathom.engine.page_store import PageStore
from fathom.engine.request import EngineEvent, Finished, OnEvent, Request
from fathom.engine.runner import Runner
from fathom.engine.sampling import SamplingParams
from fathom.engine.speculation import SpeculationMode
from fathom.engine.stats import EngineLimits, EngineStats
from fathom.engine.thinking import Thinker
from fathom.models.adapter import Adapter
from fathom.models.config import ModelConfig
from fathom.text import ChatTemplate, Grammar, Message, PlainParser, Prompt, StreamParser, Tokenizer, Tool

BEGIN_OF_THOUGHT, END_OF_THOUGHT = "<think>", "</think>"


class Ticket:
    """The caller's end of a submitted request."""

    def __init__(self, core: EngineCore, sequence: ActiveSequence) -> None:
        self._core = core
        self._sequence = sequence

    def cancel(self) -> None:
        """End the request; its pages are free before the next step. Finished("cancelled") follows, unless over."""
        self._core.cancel(self._sequence)

    def answer_now(self) -> None:
        """End the thought after its next token, so that the answer follows; nothing where no thought runs."""
        self._sequence.owner.end_thought = True

    def position(self) -> int:
        """Place in the queue: 1 is next to be admitted, 0 when it runs or is over."""
        return self._core.position(self._sequence)


class Engine:
    """Many requests at once on one runner.

    `on_event` and everything that it calls runs in the engine's thread and must not block: hand the event to a queue or
    an event loop and return. Events wait in memory until they are read; `max_tokens` bounds them.

    Args:
        runner: weights and cache; closed with the engine.
        tokenizer: the model's.
        template: renders conversations and parses answers.
        model_name: what the model is called.
        config: the model's configuration.
        limits: bounds on step, batch and queue.
        policy: what was chosen for this machine, in words, for `stats`.
        defaults: what holds where a request says nothing.
        speculation: "auto": guess tokens ahead by what was said before, and by the model's own modules where it has
            any, as far as that pays; "lookup": without the modules; "off". What is answered does not depend on it.
        thinker: an adapter for requests that begin with a thought, of a base model that cannot think by itself.
        store: where prefixes are kept beyond the engine's life; None: nowhere.

    """

    _thinker: Thinker | None = None

    def __init__(
        self,
        runner: Runner,
        tokenizer: Tokenizer,
        template: ChatTemplate,
        *,
        model_name: str,
        config: ModelConfig | None = None,
        limits: EngineLimits | None = None,
        policy: Mapping[str, str] | None = None,
        defaults: GenerationDefaults | None = None,
        speculation: SpeculationMode = "auto",
        thinker: Thinker | None = None,
        store: PageStore | None = None,
    ) -> None:
        self.runner = runner
        self.tokenizer = tokenizer
        self.template = template if thinker is None else thinker.template(template)
        self.model_name = model_name
        self.config = config
        self.defaults = defaults or GenerationDefaults()
        self.max_tokens = min(runner.max_context, runner.n_pages * runner.page_tokens)  # of prompt and output together
        self._limits = limits or EngineLimits()
        self._policy = dict(policy or {})
        self._grammars = Grammars(tokenizer, runner.vocab_size)
        self._thinker = thinker if thinker is not None and self.template.thinks else None
        self._loading_thinker = threading.Lock()
        self._core = EngineCore(runner, self._limits, model_name, speculation, store)
        atexit.register(self.close)  # a daemon thread inside native code must not outlive the interpreter

    @property
    def thought_bound(self) -> int | None:
        """Most tokens of a thought whose request sets no bound; None: no bound but the context."""
        return None if self._thinker is None else self._thinker.max_thought_tokens

    def submit(self, request: Request, on_event: OnEvent) -> Ticket:
        """Queue a request; its events go to `on_event`, the last one is always Finished.

        Raises:
            InvalidRequestError: the request contradicts the model. PromptTooLongError: it cannot fit.
            QueueFull: too much waits already. EngineClosedError: the engine is closed or has failed.

        """
        return Ticket(self._core, self._core.submit(self._accept(request, on_event)))

    def submit_together(self, requests: Sequence[tuple[Request, OnEvent]]) -> list[Ticket]:
        """Queue several requests at once: none begins before all are queued. On an idle engine the same requests then
        run in the same batches every time, and so give the same numbers to the last bit. Raises as `submit`; requests
        queued before one that raises go on.
        """
        actives = [self._accept(request, on_event) for request, on_event in requests]
        return [Ticket(self._core, sequence) for sequence in self._core.submit_together(actives)]

    def request(
        self,
        messages: Messages | None = None,
        *,
        prompt: str | Sequence[int] | None = None,
        tools: Sequence[Tool] = (),
        thinking: bool = False,
        params: SamplingParams | None = None,
        salt: str | None = None,
        priority: int = 0,
        max_thought_tokens: int | None = None,
        adapter: str | None = None,
        constraint: Constraint | None = None,
        **sampling: Any,
    ) -> Request:
        """A request from a conversation, or from a plain prompt (text or ids) to be continued.

        Give either `params`, taken as they are, or fields of SamplingParams by name; the model's own defaults hold for
        the fields not given.
        """
        if params is not None and sampling:
            raise InvalidRequestError(f"give either params or {', '.join(sampling)}, not both")
        params = params or self.defaults.params(**sampling)
        if prompt is not None:
            _refuse_for_prompts(messages, tools, thinking, max_thought_tokens)
            ids = self.plain_prompt(prompt)
            return Request(
                ids, params, plain=True, salt=salt, priority=priority, adapter=adapter, constraint=constraint
            )
        if messages is None:
            raise InvalidRequestError("give messages (a conversation) or prompt (text to continue)")
        rendered = self.render(as_messages(messages), tools=tools, thinking=thinking)
        return Request(
            rendered,
            params,
            salt=salt,
            priority=priority,
            max_thought_tokens=max_thought_tokens,
            adapter=adapter,
            constraint=constraint,
        )

    @property
    def adapters(self) -> tuple[str, ...]:
        """Names of the adapters that requests may ask for."""
        loaded = self._core.adapters
        return loaded if self._thinker is None or self._thinker.name in loaded else (*loaded, self._thinker.name)

    def add_adapter(self, name: str, adapter: Adapter) -> None:
        """Load a low-rank adapter beside the base model; `Request.adapter` chooses it.

        The weights are copied. Raises InvalidRequestError when the name is taken or the adapter does not fit.
        """
        if name in self.adapters:
            raise InvalidRequestError(f"there is an adapter {name!r} already; use update_adapter")
        self._core.put_adapter(name, adapter)

    def update_adapter(self, name: str, adapter: Adapter) -> None:
        """Give an adapter new weights. Requests submitted before keep the old ones, and no cached page of theirs is
        reused by those that follow.

        Raises InvalidRequestError when there is none of this name or the new weights do not fit; the old ones stay.
        """
        self._check_adapter(name)
        self._core.put_adapter(name, adapter)

    def remove_adapter(self, name: str) -> None:
        """Take an adapter away; requests that use it go on. Raises InvalidRequestError when there is none."""
        self._check_adapter(name)
        self._core.remove_adapter(name)

    def _check_adapter(self, name: str) -> None:
        if name not in self.adapters:
            raise InvalidRequestError(f"there is no adapter {name!r}; loaded are {', '.join(self.adapters) or 'none'}")

    def render(self, messages: Sequence[Message], *, tools: Sequence[Tool] = (), thinking: bool = False) -> Prompt:
        """The prompt of a conversation, with the model's default system message where it brings none."""
        if self.defaults.system is not None and not any(message.role == "system" for message in messages):
            messages = [Message("system", self.defaults.system), *messages]
        return self.template.render(messages, tools=tools, thinking=thinking)

    def plain_prompt(self, prompt: str | Sequence[int]) -> Prompt:
        """A prompt that is continued as it stands; text gets a beginning-of-sequence token if the model wants one."""
        if not isinstance(prompt, str):
            return Prompt(tuple(prompt), self.tokenizer.decode(prompt), "answer")
        start = [self.tokenizer.bos_id] if self.tokenizer.add_bos and self.tokenizer.bos_id is not None else []
        return Prompt((*start, *self.tokenizer.encode(prompt)), prompt, "answer")

    def constrain(self, grammar: Grammar) -> Constraint:
        """A form for the answers of requests. Slow for a grammar not seen lately. Raises GrammarError."""
        return self._grammars.compile(grammar)

    def stream(self, messages: Messages | None = None, **options: Any) -> Iterator[EngineEvent]:
        """The events of a request as they come; arguments as `request`. Closing the generator cancels the request."""
        mailbox = Mailbox()
        ticket = self.submit(self.request(messages, **options), mailbox.put)
        return _drain(mailbox, ticket)

    async def astream(self, messages: Messages | None = None, **options: Any) -> AsyncIterator[EngineEvent]:
        """`stream` for an event loop. Closing the generator or cancelling its task cancels the request."""
        mailbox = AsyncMailbox[EngineEvent]()
        ticket = self.submit(self.request(messages, **options), mailbox.put)
        try:
            while True:
                for event in await mailbox.take():
                    yield event
                    if isinstance(event, Finished):
                        return
        finally:
            ticket.cancel()

    def generate(self, messages: Messages | None = None, **options: Any) -> Completion:
        """The whole answer; arguments as `request`. Raises RequestFailedError when the engine failed on it."""
        return collect(self.stream(messages, **options))

    def stats(self) -> EngineStats:
        """A snapshot of load and totals; cheap."""
        return EngineStats(
            model=self.model_name,
            runner=self.runner.name,
            max_tokens=self.max_tokens,
            page_tokens=self.runner.page_tokens,
            bytes_per_page=self.runner.bytes_per_page,
            policy=self._policy,
            limits=self._limits,
            load=self._core.load(),
        )

    def close(self, *, drain: bool = False) -> None:
        """Cancel what runs and waits, or with `drain` let it finish; then end the thread and free the runner."""
        self._core.close(drain=drain)
        self._grammars.close()
        atexit.unregister(self.close)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _load_thinker(self, thinker: Thinker) -> None:
        """Load its adapter for the first request that needs it: many never do."""
        with self._loading_thinker:
            if thinker.name not in self._core.adapters:
                on_host = self.runner.name.startswith("native")  # which would import PyTorch for nothing else
                self._core.put_adapter(thinker.name, thinker.stored.on_host() if on_host else thinker.stored.adapter)

    def _accept(self, request: Request, on_event: OnEvent) -> ActiveRequest:
        self._check_prompt(request.prompt.ids)
        if self._thinker is not None:
            request = self._thinker.take(request, self.defaults, self.max_tokens - len(request.prompt.ids))
            if request.adapter == self._thinker.name:
                self._load_thinker(self._thinker)
        ids, params = request.prompt.ids, request.params
        beyond = [token for token in params.logit_bias if not 0 <= token < self.runner.vocab_size]
        if beyond:
            raise InvalidRequestError(f"logit_bias names token {beyond[0]}; ids go to {self.runner.vocab_size - 1}")
        if request.constraint is not None and params.ignore_eos:
            raise InvalidRequestError("ignore_eos contradicts a demanded form: the answer is over when it has the form")
        parser: StreamParser = PlainParser(self.tokenizer) if request.plain else self.template.parser(request.prompt)
        room = self.max_tokens - len(ids)
        end_of_thought = self._end_of_thought(request)
        return ActiveRequest(
            request,
            parser,
            max_new_tokens=room if params.max_tokens is None else min(params.max_tokens, room),
            stop_ids=frozenset() if params.ignore_eos else self.tokenizer.stop_ids,
            end_of_thought=end_of_thought,
            on_event=on_event,
            constraint=self._constraint(request, parser),
            not_an_answer=self._not_an_answer() if end_of_thought and request.constraint is None else (),
        )

    def _constraint(self, request: Request, parser: StreamParser) -> ConstraintState | None:
        if request.constraint is None:
            return None
        # Where the model itself says whether it thinks, it may still do so before the answer takes its form.
        may_think = request.prompt.channel == "any" and not request.plain and self.template.thinks
        opens_thought = self.tokenizer.control_id(BEGIN_OF_THOUGHT) if may_think else None
        return request.constraint.state(self.tokenizer, parser, opens_thought)

    def _check_prompt(self, ids: Sequence[int]) -> None:
        if not ids:
            raise InvalidRequestError("the prompt is empty; give at least one token")
        if len(ids) >= self.max_tokens:
            context, cache = self.runner.max_context, self.runner.n_pages * self.runner.page_tokens
            bound = f"the context of {context} tokens" if context <= cache else f"the cache of {cache} tokens"
            remedy = "" if context <= cache else " or give the cache more memory"
            raise PromptTooLongError(
                f"the prompt has {len(ids)} tokens; with at least one token of answer it does not fit into {bound}. "
                f"Shorten it{remedy}"
            )
        if min(ids) < 0 or max(ids) >= self.runner.vocab_size:
            raise InvalidRequestError(f"a token id of the prompt is outside 0 to {self.runner.vocab_size - 1}")

    def _end_of_thought(self, request: Request) -> Sequence[int]:
        bound = request.max_thought_tokens
        if bound is not None and (bound < 1 or request.plain or not self.template.thinks):
            raise InvalidRequestError("max_thought_tokens needs a model that thinks, a conversation, and at least 1")
        if request.plain or not self.template.thinks:
            return ()
        end = self.tokenizer.id_of(END_OF_THOUGHT)
        ends = self.tokenizer.encode(END_OF_THOUGHT) if end is None else [end]
        return [*ends, *self.tokenizer.encode("\n\n")]

    def _not_an_answer(self) -> Sequence[int]:
        marks = (self.tokenizer.id_of(BEGIN_OF_THOUGHT), self.tokenizer.id_of(END_OF_THOUGHT))
        return [*self.tokenizer.stop_ids, *(mark for mark in marks if mark is not None)]


def _drain(mailbox: Mailbox, ticket: Ticket) -> Iterator[EngineEvent]:
    try:
        while True:
            event = mailbox.get()
            yield event
            if isinstance(event, Finished):
                return
    finally:
        ticket.cancel()


def _refuse_for_prompts(
    messages: Messages | None, tools: Sequence[Tool], thinking: bool, max_thought_tokens: int | None
) -> None:
    """A plain prompt is continued as it stands: what belongs to conversations would be ignored, so it is refused."""
    if messages is not None or tools or thinking or max_thought_tokens is not None:
        raise InvalidRequestError("a plain prompt takes no messages, tools, thinking or max_thought_tokens")
