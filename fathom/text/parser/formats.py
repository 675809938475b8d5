"""The ways in which models write tool calls."""

from enum import Enum


class CallFormat(Enum):
    """A way of writing tool calls."""

    DEEPSEEK_V3 = "deepseek-v3"  # V3 and R1: the word function, the name, fenced JSON; between DeepSeek's tokens
    DEEPSEEK_V31 = "deepseek-v3.1"  # name and bare JSON between the same tokens
    DEEPSEEK_V32 = "deepseek-v3.2"  # DSML: one element for each parameter
    HERMES = "hermes"  # Qwen and Hermes: <tool_call>{"name": ..., "arguments": {...}}</tool_call>
