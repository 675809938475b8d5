"""Every field of Anthropic's Messages that this server takes.

Source: https://docs.anthropic.com/en/api/messages; what DeepSeek's endpoint takes of it:
https://api-docs.deepseek.com/guides/anthropic_api. Marks for caches (`cache_control`) and `service_tier` cannot change
an answer and are accepted everywhere; pictures, documents and server tools but web_search are refused by name.
"""

from typing import Annotated, Any, Literal

from pydantic import Field, StringConstraints, model_validator

from fathom.server.deepseek.fields import MAX_TOKENS, MAX_TOOLS, Name, Names, StopTexts, Strict, Text, UserId


class Block(Strict):
    """What all blocks may carry without effect."""

    cache_control: dict[str, Any] | None = None


class TextBlock(Block):
    """Text of a person, a system prompt, an answer or a tool's result."""

    type: Literal["text"]
    text: str
    citations: list[Any] | None = None  # of an answer of the history; the text holds their marks


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


class ServerToolUseBlock(Block):
    """A search of the history: what it found was for the answer that followed it, and is not read again."""

    type: Literal["server_tool_use"]
    id: Text
    name: Literal["web_search"]
    input: dict[str, Any]
    caller: dict[str, Any] | None = None


class SearchResultBlock(Block):
    """What that search found."""

    type: Literal["web_search_tool_result"]
    tool_use_id: Text
    content: list[dict[str, Any]] | dict[str, Any]
    caller: dict[str, Any] | None = None


UserBlock = Annotated[TextBlock | ToolResultBlock, Field(discriminator="type")]
AssistantBlock = Annotated[
    TextBlock | ThinkingBlock | ToolUseBlock | ServerToolUseBlock | SearchResultBlock, Field(discriminator="type")
]


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


class WebSearchTool(Block):
    """Anthropic's server tool, which this server runs before the answer instead of leaving it to the model.

    Source: https://docs.anthropic.com/en/docs/agents-and-tools/tool-use/web-search-tool.
    """

    type: Annotated[str, StringConstraints(pattern=r"^web_search_20\d{6}$")]
    name: Literal["web_search"]
    max_uses: Annotated[int, Field(ge=1)] | None = None
    allowed_domains: Names | None = None
    blocked_domains: Names | None = None

    @model_validator(mode="after")
    def _one_list(self) -> "WebSearchTool":
        if self.allowed_domains and self.blocked_domains:
            raise ValueError("give either allowed_domains or blocked_domains")
        return self


class ToolChoice(Strict):
    """Whether and which tools are called."""

    type: Literal["auto", "any", "tool", "none"]
    name: Name | None = None
    disable_parallel_tool_use: bool | None = None

    @model_validator(mode="after")
    def _names_its_tool(self) -> "ToolChoice":
        if (self.type == "tool") != (self.name is not None):
            raise ValueError('name is for tool_choice of type "tool", which needs it')
        return self


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


class OutputFormat(Strict):
    """JSON of a schema."""

    type: Literal["json_schema"]
    schema_: Annotated[dict[str, Any], Field(alias="schema")]


class OutputConfig(Strict):
    """How much effort, in which form."""

    effort: Literal["low", "medium", "high", "xhigh", "max"] | None = None
    format: OutputFormat | None = None


class Metadata(Strict):
    """`user_id` separates prefix caches."""

    user_id: UserId | None = None


class CountFields(Strict):
    """POST /anthropic/v1/messages/count_tokens."""

    model: Annotated[str, StringConstraints(min_length=1, max_length=256)]
    messages: Annotated[list[Turn], Field(min_length=1, max_length=4096)]
    system: str | list[TextBlock] | None = None
    thinking: ThinkingConfig | None = None
    tools: Annotated[list[ClientTool | WebSearchTool], Field(max_length=MAX_TOOLS)] | None = None
    tool_choice: ToolChoice | None = None
    output_config: OutputConfig | None = None
    cache_control: dict[str, Any] | None = None

    @property
    def client_tools(self) -> list[ClientTool]:
        """The functions that the model may call."""
        return [tool for tool in self.tools or () if isinstance(tool, ClientTool)]

    @property
    def web_search(self) -> WebSearchTool | None:
        """The search that was asked for."""
        offered = [tool for tool in self.tools or () if isinstance(tool, WebSearchTool)]
        return offered[0] if offered and (self.tool_choice is None or self.tool_choice.type != "none") else None

    @model_validator(mode="after")
    def _searches_without_tools(self) -> "CountFields":
        if self.web_search is not None and self.client_tools:
            # What stands in a page could make the model call them.
            raise ValueError("web_search and other tools do not go together: search in one request, call in another")
        return self


class MessagesFields(CountFields):
    """POST /anthropic/v1/messages."""

    max_tokens: Annotated[int, Field(ge=1, le=MAX_TOKENS)]
    metadata: Metadata | None = None
    service_tier: Literal["auto", "standard_only"] | None = None
    stop_sequences: StopTexts | None = None
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
