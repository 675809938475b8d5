"""Every field of Anthropic's Messages that this server takes.

Source: https://docs.anthropic.com/en/api/messages; what DeepSeek's endpoint takes of it:
https://api-docs.deepseek.com/guides/anthropic_api. Marks for caches (`cache_control`) and `service_tier` cannot change
an answer and are accepted everywhere; pictures, documents and server tools are refused by name.
"""

from typing import Annotated, Any, Literal

from pydantic import Field, StringConstraints, model_validator

from fathom.server.deepseek.fields import MAX_TOKENS, MAX_TOOLS, Name, Strict, Text, UserId


class Block(Strict):
    """What all blocks may carry without effect."""

    cache_control: dict[str, Any] | None = None


class TextBlock(Block):
    """Text of a person, a system prompt, an answer or a tool's result."""

    type: Literal["text"]
    text: str
    citations: Annotated[list[Any], Field(max_length=0)] | None = None


class ThinkingBlock(Strict):
    """A thought of the history; its signature is not read."""

    type: Literal["thinking"]
    thinking: str
    signature: str = ""


class ToolUseBlock(Block):
    """A call of the history."""

    type: Literal["tool_use"]
    id: Text
    name: Name
    input: dict[str, Any]
    caller: dict[str, Any] | None = None


class ToolResultBlock(Block):
    """What a tool returned."""

    type: Literal["tool_result"]
    tool_use_id: Text
    content: str | list[TextBlock] = ""
    is_error: bool = False


UserBlock = Annotated[TextBlock | ToolResultBlock, Field(discriminator="type")]
AssistantBlock = Annotated[TextBlock | ThinkingBlock | ToolUseBlock, Field(discriminator="type")]


class UserTurn(Strict):
    """What the person said, or what tools returned."""

    role: Literal["user"]
    content: str | Annotated[list[UserBlock], Field(min_length=1)]


class AssistantTurn(Strict):
    """What the model said; as the last turn, the beginning of what it shall say."""

    role: Literal["assistant"]
    content: str | Annotated[list[AssistantBlock], Field(min_length=1)]


Turn = Annotated[UserTurn | AssistantTurn, Field(discriminator="role")]


class ClientTool(Block):
    """A function that the model may call; `input_schema` is a JSON schema."""

    type: Literal["custom"] | None = None
    name: Name
    description: str | None = None
    input_schema: dict[str, Any]
    strict: bool | None = None


class ToolChoice(Strict):
    """Whether and which tools are called."""

    type: Literal["auto", "any", "tool", "none"]
    name: Name | None = None
    disable_parallel_tool_use: bool | None = None


class ThinkingConfig(Strict):
    """The switch and the budget of thinking; thoughts are always shown whole."""

    type: Literal["enabled", "disabled", "adaptive"]
    budget_tokens: Annotated[int, Field(ge=1, le=MAX_TOKENS)] | None = None
    display: Literal["summarized"] | None = None

    @model_validator(mode="after")
    def _budget_is_for_thinking(self) -> "ThinkingConfig":
        if self.budget_tokens is not None and self.type != "enabled":
            raise ValueError('budget_tokens is for thinking of type "enabled"')
        return self


class OutputConfig(Strict):
    """How much effort, in which form."""

    effort: Literal["low", "medium", "high", "xhigh", "max"] | None = None
    format: dict[str, Any] | None = None


class Metadata(Strict):
    """`user_id` separates prefix caches."""

    user_id: UserId | None = None


class CountFields(Strict):
    """POST /anthropic/v1/messages/count_tokens."""

    model: Annotated[str, StringConstraints(min_length=1, max_length=256)]
    messages: Annotated[list[Turn], Field(min_length=1, max_length=4096)]
    system: str | list[TextBlock] | None = None
    thinking: ThinkingConfig | None = None
    tools: Annotated[list[ClientTool], Field(max_length=MAX_TOOLS)] | None = None
    tool_choice: ToolChoice | None = None
    output_config: OutputConfig | None = None
    cache_control: dict[str, Any] | None = None


class MessagesFields(CountFields):
    """POST /anthropic/v1/messages."""

    max_tokens: Annotated[int, Field(ge=1, le=MAX_TOKENS)]
    metadata: Metadata | None = None
    service_tier: Literal["auto", "standard_only"] | None = None
    stop_sequences: Annotated[list[Text], Field(max_length=16)] | None = None
    stream: bool = False
    temperature: Annotated[float, Field(ge=0, le=2)] | None = None
    top_k: Annotated[int, Field(ge=0, le=MAX_TOKENS)] | None = None
    top_p: Annotated[float, Field(gt=0, le=1)] | None = None

    @model_validator(mode="after")
    def _leaves_room_for_an_answer(self) -> "MessagesFields":
        budget = self.thinking.budget_tokens if self.thinking else None
        if budget is not None and budget >= self.max_tokens:
            raise ValueError("thinking.budget_tokens must be smaller than max_tokens")
        return self
