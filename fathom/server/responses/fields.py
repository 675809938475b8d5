"""Every field of OpenAI's Responses that this server takes; it keeps nothing, so a conversation comes whole each time.

Sources: https://platform.openai.com/docs/api-reference/responses/create; what DeepSeek's endpoint takes of it:
https://api-docs.deepseek.com (Responses API).
"""

from typing import Annotated, Any, Literal

from pydantic import Discriminator, Field, StringConstraints, Tag, model_validator

from fathom.server.deepseek.fields import MAX_TOKENS, MAX_TOOLS, JsonSchema, Name, Strict, Text, UserId


class InputText(Strict):
    """A piece of a message; OpenAI names it by whose it is."""

    type: Literal["input_text", "output_text", "text"]
    text: str
    annotations: list[Any] | None = None
    logprobs: list[Any] | None = None


Content = str | Annotated[list[InputText], Field(min_length=1)]


class MessageItem(Strict):
    """A turn."""

    type: Literal["message"] = "message"
    role: Literal["system", "developer", "user", "assistant"]
    content: Content
    id: str | None = None
    status: str | None = None
    phase: str | None = None


class CallItem(Strict):
    """A tool call of the history."""

    type: Literal["function_call"]
    call_id: Text
    name: Name
    arguments: str
    id: str | None = None
    status: str | None = None


class CallOutputItem(Strict):
    """What a tool returned."""

    type: Literal["function_call_output"]
    call_id: Text
    output: Content
    id: str | None = None
    status: str | None = None


class ThoughtText(Strict):
    """A piece of a thought."""

    type: Literal["reasoning_text", "summary_text"]
    text: str


class ReasoningItem(Strict):
    """A thought of the history."""

    type: Literal["reasoning"]
    summary: list[ThoughtText] = []  # noqa: RUF012 - pydantic copies it
    content: list[ThoughtText] | None = None
    encrypted_content: None = None
    id: str | None = None
    status: str | None = None


def _kind(item: object) -> str:
    kind = item.get("type", "message") if isinstance(item, dict) else getattr(item, "type", "message")
    return kind if isinstance(kind, str) else "message"


Item = Annotated[
    Annotated[MessageItem, Tag("message")]
    | Annotated[CallItem, Tag("function_call")]
    | Annotated[CallOutputItem, Tag("function_call_output")]
    | Annotated[ReasoningItem, Tag("reasoning")],
    Discriminator(_kind),
]


class ResponseTool(Strict):
    """A function that the model may call; OpenAI's own tools do not exist here."""

    type: Literal["function"]
    name: Name
    description: str | None = None
    parameters: dict[str, Any] | None = None
    strict: bool | None = None


class NamedTool(Strict):
    """`tool_choice` that names one function."""

    type: Literal["function"]
    name: Name


class Reasoning(Strict):
    """Whether to think; how much is the model's affair. Instead of a summary the thought itself is always given."""

    effort: Literal["none", "minimal", "low", "medium", "high", "xhigh", "max"] | None = None
    summary: Literal["auto", "concise", "detailed"] | None = None


class TextFormat(Strict):
    """Free text, or any JSON object."""

    type: Literal["text", "json_object"]


class SchemaFormat(JsonSchema):
    """JSON of a schema."""

    type: Literal["json_schema"]


class TextConfig(Strict):
    """The form of the answer."""

    format: Annotated[TextFormat | SchemaFormat, Field(discriminator="type")] | None = None
    verbosity: Literal["medium"] | None = None


class ResponseStreamOptions(Strict):
    """Nothing of it applies."""

    include_obfuscation: bool = False


class ResponseFields(Strict):
    """POST /responses."""

    model: Annotated[str, StringConstraints(min_length=1, max_length=256)]
    input: str | Annotated[list[Item], Field(min_length=1, max_length=4096)]
    instructions: str | None = None
    max_output_tokens: Annotated[int, Field(ge=1, le=MAX_TOKENS)] | None = None
    temperature: Annotated[float, Field(ge=0, le=2)] | None = None
    top_p: Annotated[float, Field(gt=0, le=1)] | None = None
    stream: bool | None = None
    stream_options: ResponseStreamOptions | None = None
    tools: Annotated[list[ResponseTool], Field(max_length=MAX_TOOLS)] | None = None
    tool_choice: Literal["none", "auto", "required"] | NamedTool | None = None
    parallel_tool_calls: bool | None = None
    reasoning: Reasoning | None = None
    text: TextConfig | None = None
    store: bool | None = None
    include: list[str] | None = None
    truncation: Literal["disabled"] | None = None
    background: Literal[False] | None = None
    user_id: UserId | None = None
    previous_response_id: Any = None
    conversation: Any = None
    prompt: Any = None

    @model_validator(mode="after")
    def _keeps_nothing(self) -> "ResponseFields":
        for name in ("previous_response_id", "conversation", "prompt"):
            if getattr(self, name) is not None:
                raise ValueError(f"{name} names something kept, but this server keeps nothing: send the whole input")
        return self
