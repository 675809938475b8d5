"""Every field of DeepSeek's chat and completion requests with its range, and what becomes of fields beyond them.

Source: https://api-docs.deepseek.com/api/create-chat-completion and create-completion. OpenAI's and vLLM's names that
clients send are taken too. A field is obeyed, refused with a message that says what to change, or (only those of
`HARMLESS`, which cannot change an answer) accepted without effect. There is no fourth way.
"""

from typing import Annotated, Any, Literal, TypeVar, cast

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationError, model_validator

from fathom.server.errors import ApiError, invalid

HARMLESS = frozenset(
    {
        "metadata",
        "prompt_cache_key",
        "prompt_cache_retention",
        "safety_identifier",
        "service_tier",
    }
    | {"store", "user", "user_id"}
)
MAX_TOKENS = 2**20
MAX_TOOLS = 128

Text = Annotated[str, StringConstraints(min_length=1)]
Name = Annotated[str, StringConstraints(pattern=r"^[a-zA-Z0-9_-]{1,64}$")]
UserId = Annotated[str, StringConstraints(pattern=r"^[a-zA-Z0-9\-_]{1,512}$")]
StopText = Annotated[str, StringConstraints(min_length=1, max_length=1024)]  # looked for behind every token
StopTexts = Annotated[list[StopText], Field(max_length=16)]
Names = Annotated[list[Annotated[str, StringConstraints(min_length=1, max_length=253)]], Field(max_length=64)]
Bias = Annotated[float, Field(ge=-100, le=100)]


class Strict(BaseModel):
    """No coercion, no unknown keys."""

    model_config = ConfigDict(strict=True, extra="forbid", frozen=True)


class TextPart(Strict):
    """OpenAI's content as a list; only text is understood."""

    type: Literal["text"]
    text: str


Content = str | Annotated[list[TextPart], Field(min_length=1)]


class CalledFunction(Strict):
    """What a past tool call called; `arguments` is JSON text as the model wrote it."""

    name: Name
    arguments: str


class PastToolCall(Strict):
    """A tool call in an assistant message of the history."""

    id: Text
    type: Literal["function"] = "function"
    index: int | None = None
    function: CalledFunction


class InstructionMessage(Strict):
    """`system`, and OpenAI's newer name for it."""

    role: Literal["system", "developer"]
    content: Content
    name: str | None = None


class UserMessage(Strict):
    """What the person said."""

    role: Literal["user"]
    content: Content
    name: str | None = None


class AssistantMessage(Strict):
    """What the model said before; with `prefix` the beginning of what it shall say now."""

    role: Literal["assistant"]
    content: Content | None = None
    name: str | None = None
    prefix: bool = False
    reasoning_content: str | None = None
    tool_calls: Annotated[list[PastToolCall], Field(max_length=MAX_TOOLS)] | None = None
    refusal: None = None
    annotations: list[Any] | None = None
    audio: None = None
    function_call: None = None

    @model_validator(mode="after")
    def _says_something(self) -> "AssistantMessage":
        if self.content is None and not self.tool_calls and not self.reasoning_content and not self.prefix:
            raise ValueError("an assistant message needs content, tool_calls or reasoning_content")
        return self


class ToolMessage(Strict):
    """What a tool returned."""

    role: Literal["tool"]
    content: Content
    tool_call_id: Text
    name: str | None = None


ChatMessage = Annotated[InstructionMessage | UserMessage | AssistantMessage | ToolMessage, Field(discriminator="role")]


class FunctionTool(Strict):
    """A function that the model may call; `parameters` is a JSON schema."""

    name: Name
    description: str | None = None
    parameters: dict[str, Any] | None = None
    strict: bool | None = None


class ChatTool(Strict):
    """The only kind of tool there is."""

    type: Literal["function"]
    function: FunctionTool


class NamedFunction(Strict):
    """The function that must be called."""

    name: Name


class NamedToolChoice(Strict):
    """`tool_choice` that names one function."""

    type: Literal["function"]
    function: NamedFunction


class Thinking(Strict):
    """DeepSeek's switch between the two modes of a hybrid model."""

    type: Literal["enabled", "disabled"]


class JsonSchema(Strict):
    """OpenAI's envelope of a schema. It is always followed, with `strict` and without."""

    name: Name
    description: str | None = None
    schema_: Annotated[dict[str, Any], Field(alias="schema")] = {"type": "object"}
    strict: bool | None = None


class ResponseFormat(Strict):
    """Free text, any JSON object, or JSON of a schema."""

    type: Literal["text", "json_object", "json_schema"]
    json_schema: JsonSchema | None = None

    @model_validator(mode="after")
    def _has_a_schema(self) -> "ResponseFormat":
        if (self.type == "json_schema") != (self.json_schema is not None):
            raise ValueError("json_schema is given exactly when the type is json_schema")
        return self


class StreamOptions(Strict):
    """`include_usage` adds a last chunk with the usage and no choices."""

    include_usage: bool = False
    include_obfuscation: bool = False


class SearchOptions(Strict):
    """`search` as an object: which engines and sites to use, and how many sources at most."""

    engines: Names | None = None
    sites: Names | None = None
    blocked_sites: Names | None = None
    max_results: Annotated[int, Field(ge=1, le=20)] | None = None


class GenerationFields(Strict):
    """What chat and text completion share."""

    model: Annotated[str, StringConstraints(min_length=1, max_length=256)]
    max_tokens: Annotated[int, Field(ge=1, le=MAX_TOKENS)] | None = None
    temperature: Annotated[float, Field(ge=0, le=2)] | None = None
    top_p: Annotated[float, Field(gt=0, le=1)] | None = None
    top_k: Annotated[int, Field(ge=-1, le=MAX_TOKENS)] | None = None
    min_p: Annotated[float, Field(ge=0, le=1)] | None = None
    frequency_penalty: Annotated[float, Field(ge=-2, le=2)] | None = None
    presence_penalty: Annotated[float, Field(ge=-2, le=2)] | None = None
    repetition_penalty: Annotated[float, Field(gt=0, le=10)] | None = None
    logit_bias: Annotated[dict[str, Bias], Field(max_length=1024)] | None = None
    seed: Annotated[int, Field(ge=-(2**63), lt=2**63)] | None = None
    stop: StopText | StopTexts | None = None
    ignore_eos: bool = False
    n: Annotated[int, Field(ge=1, le=16)] | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    user_id: UserId | None = None

    @model_validator(mode="after")
    def _options_need_stream(self) -> "GenerationFields":
        if self.stream_options is not None and not self.stream:
            raise ValueError("stream_options is for streamed answers: set stream to true or leave stream_options out")
        return self


class ChatFields(GenerationFields):
    """POST /chat/completions."""

    messages: Annotated[list[ChatMessage], Field(min_length=1, max_length=4096)]
    max_completion_tokens: Annotated[int, Field(ge=1, le=MAX_TOKENS)] | None = None
    thinking: Thinking | None = None
    reasoning_effort: Literal["none", "minimal", "low", "medium", "high", "xhigh", "max"] | None = None
    response_format: ResponseFormat | None = None
    tools: Annotated[list[ChatTool], Field(max_length=MAX_TOOLS)] | None = None
    tool_choice: Literal["none", "auto", "required"] | NamedToolChoice | None = None
    parallel_tool_calls: bool | None = None
    logprobs: bool | None = None
    top_logprobs: Annotated[int, Field(ge=0, le=20)] | None = None
    search: bool | SearchOptions = False

    @model_validator(mode="after")
    def _fits_together(self) -> "ChatFields":
        if self.top_logprobs is not None and not self.logprobs:
            raise ValueError("top_logprobs needs logprobs set to true")
        if self.max_tokens and self.max_completion_tokens and self.max_tokens != self.max_completion_tokens:
            raise ValueError("max_tokens and max_completion_tokens say different things: send one of them")
        if self.search and self.tools and self.tool_choice != "none":
            # What stands in a page could make the model call them.
            raise ValueError("search and tools do not go together: search in one request, call tools in another")
        for message in self.messages[:-1]:
            if isinstance(message, AssistantMessage) and message.prefix:
                raise ValueError("prefix may only be set on the last message")
        return self


TokenIds = Annotated[list[Annotated[int, Field(ge=0)]], Field(min_length=1)]
MAX_PROMPTS = 64


class CompletionFields(GenerationFields):
    """POST /completions: raw text or token ids, one or several; `suffix` asks to fill the middle."""

    prompt: (
        str
        | TokenIds
        | Annotated[list[str], Field(min_length=1, max_length=MAX_PROMPTS)]
        | Annotated[list[TokenIds], Field(min_length=1, max_length=MAX_PROMPTS)]
    )
    max_tokens: Annotated[int, Field(ge=0, le=MAX_TOKENS)] | None = None
    suffix: str | None = None
    echo: bool = False
    logprobs: Annotated[int, Field(ge=0, le=20)] | None = None
    best_of: Literal[1] | None = None

    @model_validator(mode="after")
    def _fits_together(self) -> "CompletionFields":
        if self.max_tokens == 0 and not self.echo:
            raise ValueError("max_tokens of 0 asks for nothing, unless echo is set")
        if self.echo and self.suffix is not None:
            raise ValueError("echo repeats a prompt that is continued: leave it out where suffix is given")
        return self

    @property
    def prompts(self) -> list[str | list[int]]:
        """Each prompt, whichever form was used."""
        several = isinstance(self.prompt, list) and not isinstance(self.prompt[0], int)
        return cast("list[str | list[int]]", self.prompt if several else [self.prompt])


Fields = TypeVar("Fields", bound=Strict)


def validated(form: type[Fields], body: dict[str, Any]) -> Fields:
    """`body` as `form`; null means "not given", as OpenAI's clients use it. Raises ApiError 422 naming the field."""
    known = form.model_fields.keys()
    given = {
        name: value for name, value in body.items() if value is not None and (name in known or name not in HARMLESS)
    }
    for name in given:
        if name not in known:
            raise invalid(f"Unknown field {name!r}: this server would have to ignore it, so leave it out", name[:80])
    try:
        return form.model_validate(given)
    except ValidationError as error:
        raise explained(error, given) from error


def explained(error: ValidationError, body: dict[str, Any]) -> ApiError:
    """422 with the first fault; of a union's faults the one of the alternative that came furthest."""
    faults = error.errors(include_url=False, include_context=False)
    fault = max(faults, key=lambda one: (len(one["loc"]), not one["type"].endswith("_type")))
    message = fault["msg"].removeprefix("Value error, ")
    where = _path(fault["loc"], body, missing=fault["type"] == "missing")
    if not where:
        return invalid(message)
    given = fault["input"]
    shown = f" (given: {str(given)[:60]!r})" if isinstance(given, str | int | float) else ""
    return invalid(f"Invalid {where}: {message}{shown}", where)


def _path(loc: tuple[int | str, ...], body: object, *, missing: bool) -> str:
    """`loc` as it reads in the request: without the names that pydantic gives to the alternatives of a union."""
    path = ""
    for position, part in enumerate(loc):
        if isinstance(part, int) and isinstance(body, list):
            path, body = f"{path}[{part}]", body[part]
        elif (
            isinstance(part, str)
            and isinstance(body, dict)
            and (part in body or (missing and position == len(loc) - 1))
        ):
            path, body = f"{path}.{part[:80]}", body.get(part)
    return path.lstrip(".")
