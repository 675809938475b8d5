"""Who draws the tokens of rollouts, behind one face: our engine in this process, or workers elsewhere.

A sampler is given a policy by its number (the updates that made it) and continues sequences of token ids; what a
problem is and what an answer is worth it does not know.
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple, Protocol

from torch import Tensor

from fathom.engine import Engine, Request, SamplingParams
from fathom.models.lora import Adapter
from fathom.rl.rollouts import Drawn, draw
from fathom.text import Prompt

POLICY = "policy"
Policy = Adapter | Mapping[str, Tensor] | None  # an adapter; all weights; or weights that the sampler shares already


class Draw(NamedTuple):
    """Continue `ids` by at most `max_tokens`; the same seed draws the same tokens."""

    ids: tuple[int, ...]
    max_tokens: int
    seed: int


class Sampler(Protocol):
    """Draws tokens from the policy it was given last."""

    def set_policy(self, version: int, policy: Policy) -> None:
        """Draw from this policy from now on."""

    def draw(self, draws: Sequence[Draw], temperature: float, seconds: float | None = None) -> list[Drawn]:
        """Continue every sequence, in order; after `seconds` none goes on."""

    def close(self) -> None:
        """Give back what it holds."""


class EngineSampler:
    """Our own engine in this process; it holds an adapter, or computes with the very weights that learn."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self._adapter: str | None = None
        self._salt: str | None = None

    def set_policy(self, version: int, policy: Policy) -> None:
        """See Sampler. Pages of another version of shared weights are not found again."""
        if isinstance(policy, Adapter):
            put = self.engine.add_adapter if self._adapter is None else self.engine.update_adapter
            put(POLICY, policy)
            self._adapter = POLICY
            return
        if policy is not None:
            raise TypeError("this engine takes adapters, or shares the weights that learn")
        self._salt = f"{POLICY} {version}"

    def draw(self, draws: Sequence[Draw], temperature: float, seconds: float | None = None) -> list[Drawn]:
        """See Sampler."""
        requests = []
        for one in draws:
            params = SamplingParams(max_tokens=one.max_tokens, temperature=temperature, seed=one.seed, logprobs=0)
            prompt = Prompt(one.ids, "", "answer")
            requests.append(Request(prompt, params, plain=True, salt=self._salt, adapter=self._adapter))
        return draw(self.engine, requests, seconds)

    def close(self) -> None:
        """End the engine."""
        self.engine.close()
