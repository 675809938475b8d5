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
