"""The ways in which models write tool calls."""

from enum import Enum


class CallFormat(Enum):
    """A way of writing tool calls."""

    DEEPSEEK = "deepseek"  # V3 and R1: fenced JSON; V3.1: the arguments alone; both between DeepSeek's control tokens
    HERMES = "hermes"  # Qwen and Hermes: <tool_call>{"name": ..., "arguments": {...}}</tool_call>
