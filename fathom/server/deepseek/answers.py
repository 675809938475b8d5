"""What chat and text completion share: choices, and how tokens are chosen."""

import dataclasses

from fathom.engine.defaults import GenerationDefaults
from fathom.engine.request import Request
from fathom.engine.sampling import SamplingParams
from fathom.server.deepseek.fields import GenerationFields
from fathom.server.errors import invalid


def choices(request: Request, n: int) -> list[Request]:
    """`n` requests that differ in nothing but their seeds, when a seed is given."""
    seed = request.params.seed
    if n == 1 or seed is None:
        return [request] * n
    params = [dataclasses.replace(request.params, seed=seed + choice) for choice in range(n)]
    return [dataclasses.replace(request, params=one) for one in params]


def includes_usage(fields: GenerationFields) -> bool:
    """Whether the client asked for a last chunk with the usage."""
    return fields.stream_options is not None and fields.stream_options.include_usage


def sampling_params(
    fields: GenerationFields, defaults: GenerationDefaults, max_tokens: int, logprobs: int | None
) -> SamplingParams:
    """The fields that chat and completion share; where the request says nothing, the model's own defaults hold."""
    bias = {}
    for token, value in (fields.logit_bias or {}).items():
        if not token.isdecimal():
            raise invalid(f"logit_bias takes token ids as keys, not {token[:40]!r}", "logit_bias")
        bias[int(token)] = value
    return defaults.params(
        max_tokens=max_tokens,
        temperature=fields.temperature,
        top_p=fields.top_p,
        top_k=max(fields.top_k, 0) if fields.top_k is not None else None,
        min_p=fields.min_p,
        presence_penalty=fields.presence_penalty,
        frequency_penalty=fields.frequency_penalty,
        repetition_penalty=fields.repetition_penalty,
        logit_bias=bias,
        seed=fields.seed,
        stop=(fields.stop,) if isinstance(fields.stop, str) else tuple(fields.stop or ()),
        logprobs=logprobs,
        ignore_eos=fields.ignore_eos,
    )
