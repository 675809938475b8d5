"""What a request may say about how its tokens are chosen."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

from fathom.engine.errors import InvalidRequestError

MAX_TOP_LOGPROBS = 20
MAX_STOP_STRINGS = 16


@dataclass(frozen=True, slots=True)
class SamplingParams:
    """How one request's tokens are chosen; the defaults sample from the model's own distribution.

    The order of the transformations is that of `transformers`: logit bias, repetition penalty, presence and frequency
    penalties, temperature, top-k, top-p (of what top-k left), min-p (relative to the most probable token).

    Attributes:
        max_tokens: most tokens to generate, at least 1; None: as many as the context holds.
        temperature: 0 chooses the most probable token (greedy), 1 samples from the model's distribution.
        top_p: keep the smallest set of most probable tokens whose probabilities sum to at least this, 0 to 1.
        top_k: keep the k most probable tokens; 0 keeps all.
        min_p: keep tokens at least this many times as probable as the most probable one, 0 to 1.
        presence_penalty: subtracted once from the logit of each token generated so far, -2 to 2 (OpenAI).
        frequency_penalty: subtracted once per occurrence among the generated tokens, -2 to 2 (OpenAI).
        repetition_penalty: divides positive and multiplies negative logits of tokens in prompt or output, above 0
            (CTRL, arXiv 1909.05858, section 4.1).
        logit_bias: added to the logits of these token ids, -100 to 100.
        seed: the same seed, request and model give the same tokens, whatever else runs; None: from the system.
        stop: strings that end the answer when they appear in its text; they are never shown.
        logprobs: None: no log probabilities; 0 to 20: that of each chosen token and of so many alternatives,
            in the model's own distribution (before bias, penalties and temperature), as OpenAI's and DeepSeek's APIs.
        prompt_logprobs: the same for the prompt's own tokens, as one event before the answer; the prompt is then read
            anew, whatever of it is cached.
        ignore_eos: go on after the end-of-sequence token, until max_tokens (for measurements).

    """

    max_tokens: int | None = None
    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    min_p: float = 0.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    repetition_penalty: float = 1.0
    logit_bias: Mapping[int, float] = field(default_factory=dict)
    seed: int | None = None
    stop: tuple[str, ...] = ()
    logprobs: int | None = None
    prompt_logprobs: int | None = None
    ignore_eos: bool = False

    def __post_init__(self) -> None:
        if self.max_tokens is not None and self.max_tokens < 1:
            raise InvalidRequestError(f"max_tokens is {self.max_tokens}; it must be at least 1, or None")
        _within("temperature", self.temperature, 0.0, math.inf)
        _within("top_p", self.top_p, 0.0, 1.0)
        _within("min_p", self.min_p, 0.0, 1.0)
        _within("presence_penalty", self.presence_penalty, -2.0, 2.0)
        _within("frequency_penalty", self.frequency_penalty, -2.0, 2.0)
        if not 0.0 < self.repetition_penalty < math.inf:
            raise InvalidRequestError(f"repetition_penalty is {self.repetition_penalty}; it must be above 0 (1: none)")
        if self.top_k < 0:
            raise InvalidRequestError(f"top_k is {self.top_k}; it must be 0 (keep all) or more")
        for name in ("logprobs", "prompt_logprobs"):
            count = getattr(self, name)
            if count is not None and not 0 <= count <= MAX_TOP_LOGPROBS:
                raise InvalidRequestError(f"{name} is {count}; it must be None or 0 to {MAX_TOP_LOGPROBS}")
        for token, bias in self.logit_bias.items():
            _within(f"logit_bias of token {token}", bias, -100.0, 100.0)
        if not isinstance(self.stop, tuple) or len(self.stop) > MAX_STOP_STRINGS or not all(self.stop):
            raise InvalidRequestError(f"stop takes a tuple of up to {MAX_STOP_STRINGS} strings, none of them empty")

    @property
    def greedy(self) -> bool:
        """Whether the most probable token is always chosen."""
        return self.temperature == 0.0 or self.top_k == 1

    @property
    def changes_logits(self) -> bool:
        """Whether penalties or a bias move logits, so that even a greedy choice depends on them."""
        return bool(self.logit_bias) or self.penalises

    @property
    def penalises(self) -> bool:
        """Whether a token's logit depends on the tokens before it."""
        return self.presence_penalty != 0.0 or self.frequency_penalty != 0.0 or self.repetition_penalty != 1.0


def _within(name: str, value: float, low: float, high: float) -> None:
    if not (low <= value <= high and math.isfinite(value)):
        raise InvalidRequestError(f"{name} is {value}; it must be a number from {low:g} to {high:g}")
