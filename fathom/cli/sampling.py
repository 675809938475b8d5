"""The flags of `run` and `chat` that say how an answer is chosen."""

import argparse
from typing import TYPE_CHECKING

from fathom.server.models import DEFAULT_MAX_TOKENS, DEFAULT_MAX_TOKENS_THINKING

if TYPE_CHECKING:
    from fathom.engine import Engine
    from fathom.engine.sampling import SamplingParams


def add_sampling_flags(parser: argparse.ArgumentParser) -> None:
    """--max-tokens, --temperature, --top-p, --seed."""
    parser.add_argument("--max-tokens", type=int, metavar="N", help="most tokens, thought included (default 4096)")
    parser.add_argument(
        "--temperature", type=float, metavar="T", help="0 always takes the likeliest token (default: the model's)"
    )
    parser.add_argument(
        "--top-p", type=float, metavar="P", help="keep the likeliest tokens that sum to P (default: the model's)"
    )
    parser.add_argument("--seed", type=int, metavar="S", help="the same seed gives the same answer")


def sampling_params(arguments: argparse.Namespace, engine: "Engine", *, thinking: bool) -> "SamplingParams":
    """What they say; the model's own defaults for the rest."""
    default = DEFAULT_MAX_TOKENS_THINKING if thinking else DEFAULT_MAX_TOKENS
    return engine.defaults.params(
        max_tokens=arguments.max_tokens or default,
        temperature=arguments.temperature,
        top_p=arguments.top_p,
        seed=arguments.seed,
    )
