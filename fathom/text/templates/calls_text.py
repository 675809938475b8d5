"""Tool calls as text."""

import json

from fathom.text.messages import ToolCall, json_text


def call_json(call: ToolCall) -> str:
    """A call as Qwen2.5 writes it; arguments that are not JSON stay as the model wrote them."""
    try:
        arguments = json_text(json.loads(call.arguments))
    except json.JSONDecodeError:
        arguments = call.arguments
    return f'{{"name": {json_text(call.name)}, "arguments": {arguments}}}'
