"""What DeepSeek's reasoning models allowed and refused, version by version: the one table of it.

By default nothing of this is enforced: each of these refusals broke programs that were right under another version.
`fathom serve --strict VERSION` enforces one version's rules, to try a program against them before it meets DeepSeek's.
Sources: https://api-docs.deepseek.com (guides "Reasoning Model", "Thinking Mode", "Tool Calls"; the change log).
"""

from dataclasses import dataclass

from fathom.server.deepseek.fields import AssistantMessage, ChatFields, UserMessage
from fathom.server.errors import ApiError, bad_request, invalid


@dataclass(frozen=True, slots=True)
class Rules:
    """What a request that thinks may say.

    Attributes:
        most_tokens: upper bound of max_tokens when thinking.
        tools: whether tools may be offered.
        json: whether JSON mode may be asked for.
        logprobs: whether log probabilities may be asked for.
        past_thoughts: what becomes of `reasoning_content` in the history: "refused", "ignored", or "needed" (in the
            turns since the last user message that called tools).

    """

    most_tokens: int
    tools: bool = True
    json: bool = True
    logprobs: bool = False
    past_thoughts: str = "ignored"


RULES = {
    "deepseek-r1": Rules(8192, tools=False, json=False, past_thoughts="refused"),  # January 2025
    "deepseek-r1-0528": Rules(65536, past_thoughts="refused"),
    "deepseek-v3.1": Rules(65536),
    "deepseek-v3.2": Rules(65536, past_thoughts="needed"),
    "deepseek-v4": Rules(393216, past_thoughts="needed"),
}


def check(version: str | None, fields: ChatFields, thinking: bool) -> None:
    """Raise ApiError where `version` would have refused the request; None refuses nothing."""
    if version is None or not thinking:
        return
    rules = RULES[version]
    most = fields.max_tokens or fields.max_completion_tokens or 0
    if most > rules.most_tokens:
        raise invalid(f"{version} takes at most {rules.most_tokens} as max_tokens when it thinks", "max_tokens")
    if fields.tools and not rules.tools:
        raise _refused(version, "tools", "knows no tools")
    if fields.response_format is not None and fields.response_format.type != "text" and not rules.json:
        raise _refused(version, "response_format", "has no JSON mode")
    if fields.logprobs and not rules.logprobs:
        raise _refused(version, "logprobs", "gives no log probabilities when it thinks")
    _check_history(version, rules, fields)


def _check_history(version: str, rules: Rules, fields: ChatFields) -> None:
    last_user = max((i for i, message in enumerate(fields.messages) if isinstance(message, UserMessage)), default=-1)
    for index, message in enumerate(fields.messages):
        if not isinstance(message, AssistantMessage):
            continue
        has_thought = message.reasoning_content is not None
        if rules.past_thoughts == "refused" and has_thought and not message.prefix:
            raise _refused(version, f"messages[{index}].reasoning_content", "refuses thoughts in the history")
        if rules.past_thoughts == "needed" and index > last_user and message.tool_calls and not has_thought:
            field = f"messages[{index}].reasoning_content"
            raise _refused(version, field, "needs the thoughts behind its tool calls back")


def _refused(version: str, field: str, why: str) -> ApiError:
    return bad_request(
        f"{version} {why} (this server runs with --strict {version}, which refuses what it refused)", field
    )
