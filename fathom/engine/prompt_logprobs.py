"""Log probabilities of a prompt's own tokens, collected chunk by chunk as the prompt is read."""

from collections.abc import Sequence

from fathom.engine.arrays import Logits, arrays_of
from fathom.engine.sampler import TokenChoice


class PromptScores:
    """Of one request; `choices[n]` belongs to token n + 1 of the prompt (nothing comes before the first)."""

    def __init__(self, tokens: Sequence[int], alternatives: int) -> None:
        self._tokens = tokens
        self._alternatives = alternatives
        self.choices: list[TokenChoice] = []

    def rows(self, start: int, count: int) -> int:
        """How many tokens of a chunk, from its first, are followed by a token of the prompt."""
        return max(0, min(start + count, len(self._tokens) - 1) - start)

    def observe(self, start: int, logits_TV: Logits) -> None:
        """Note the logits after the prompt's tokens `start`, `start + 1` and so on. A chunk may come twice."""
        del self.choices[start:]
        if not len(logits_TV):
            return
        arrays = arrays_of(logits_TV)
        logprobs_TV = arrays.log_softmax(logits_TV)
        following = self._tokens[start + 1 : start + 1 + len(logits_TV)]
        own = [logprobs_TV[row, token].item() for row, token in enumerate(following)]
        values, tokens = (found.tolist() for found in arrays.top(logprobs_TV, self._alternatives))
        self.choices += [
            TokenChoice(token, own[row], tuple(zip(tokens[row], values[row], strict=True)))
            for row, token in enumerate(following)
        ]
