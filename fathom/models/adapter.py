"""What a low-rank adapter is (LoRA, arXiv 2106.09685): pairs of matrices beside linear layers; without torch.

R rank, I and O the input and output size of a layer.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

# The linear layers of blocks, by the last part of their names. kv_b_proj is not among them: the absorbed form of latent
# attention multiplies with its weight and never calls the layer. Stacked experts are no layers either.
TARGETS = (
    "q_proj",
    "k_proj",
    "v_proj",
    "o_proj",
    "q_a_proj",
    "q_b_proj",
    "kv_a_proj_with_mqa",
    "gate_proj",
    "up_proj",
    "down_proj",
)


@dataclass(frozen=True, slots=True, eq=False)
class Adapter:
    """Pairs (A_RI, B_OR) by the Hugging Face name of their layer, such as `model.layers.0.self_attn.q_proj`."""

    scale: float
    pairs: Mapping[str, "tuple[Tensor, Tensor]"]

    @property
    def rank(self) -> int:
        """The largest rank of a pair."""
        return max(a_RI.shape[0] for a_RI, _ in self.pairs.values())

    def change(self, name: str) -> "Tensor":
        """What the adapter adds to the weight of one layer, float32 [O, I]."""
        a_RI, b_OR = self.pairs[name]
        return self.scale * (b_OR.float() @ a_RI.float())

    def towards(self, other: "Adapter", share: float) -> "Adapter":
        """The mean of both adapters' matrices, `share` of the other's (weight averaging, arXiv 2109.01903), in float32.

        It means something for adapters of which one was trained from the other: their matrices then speak of the same
        directions. What a long training on one thing unlearned comes back sooner than what it learned goes.

        Raises:
            ValueError: they differ in layers, ranks or scale.

        """
        if self.scale != other.scale or self.pairs.keys() != other.pairs.keys():
            raise ValueError("the two adapters differ in their layers or their scale: only relatives can be averaged")
        pairs = {}
        for layer, own in self.pairs.items():
            if any(mine.shape != theirs.shape for mine, theirs in zip(own, other.pairs[layer], strict=True)):
                raise ValueError(f"the two adapters differ in the rank or size of {layer}")
            a_RI, b_OR = (
                (1 - share) * mine.float() + share * theirs.float()
                for mine, theirs in zip(own, other.pairs[layer], strict=True)
            )
            pairs[layer] = (a_RI, b_OR)
        return Adapter(self.scale, pairs)
