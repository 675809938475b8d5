"""Usage, log probabilities and finish reasons in DeepSeek's words, for both forms of completion."""

import hashlib
from collections.abc import Callable, Sequence
from typing import Any

from fathom import __version__
from fathom.engine.request import TokenLogprobs, Usage

TokenBytes = Callable[[int], bytes]

FINISH_REASONS = {
    "stop": "stop",
    "length": "length",
    "tool_calls": "tool_calls",
    "cancelled": "insufficient_system_resource",
    "error": "insufficient_system_resource",
}


def usage_json(usages: Sequence[Usage]) -> dict[str, Any]:
    """The usage object: the prompt counts once, however many choices were asked for."""
    prompt, cached = usages[0].prompt_tokens, max(usage.cached_tokens for usage in usages)
    completion = sum(usage.completion_tokens for usage in usages)
    return {
        "prompt_tokens": prompt,
        "completion_tokens": completion,
        "total_tokens": prompt + completion,
        "prompt_tokens_details": {"cached_tokens": cached},
        "completion_tokens_details": {"reasoning_tokens": sum(usage.thought_tokens for usage in usages)},
        "prompt_cache_hit_tokens": cached,
        "prompt_cache_miss_tokens": prompt - cached,
    }


def logprob_json(event: TokenLogprobs, token_bytes: TokenBytes) -> dict[str, Any]:
    """One entry of `logprobs.content` or `logprobs.reasoning_content`, with the alternatives."""
    top = [_one(token, logprob, token_bytes) for token, logprob in event.alternatives]
    return {**_one(event.token, event.logprob, token_bytes), "top_logprobs": top}


def _one(token: int, logprob: float, token_bytes: TokenBytes) -> dict[str, Any]:
    data = token_bytes(token)
    return {"token": data.decode("utf-8", "replace"), "logprob": logprob, "bytes": list(data)}


def fingerprint(model_name: str, runner_name: str) -> str:
    """The same for the same software, model and way of computing: a seed can be relied on while it stays."""
    return f"fp_{hashlib.sha256(f'{__version__} {model_name} {runner_name}'.encode()).hexdigest()[:10]}"
