"""The model: one definition for training and inference, with Hugging Face's parameter names.

N tokens of a flat batch, M rows of it, D hidden size, V vocabulary.
"""

from collections.abc import Callable
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fathom.models import rotary
from fathom.models.attention import GroupedQueryAttention, LatentAttention
from fathom.models.cache import KeyValueCache
from fathom.models.config import ModelConfig
from fathom.models.experts import MixtureOfExperts, Routing
from fathom.models.layers import Embedding, FeedForward, Linear, RMSNorm

Record = Callable[[int, Routing], None]


class Block(nn.Module):
    """Pre-norm transformer block: attention, then a feed-forward or a mixture of experts."""

    def __init__(self, config: ModelConfig, layer: int) -> None:
        super().__init__()
        self.layer = layer
        self.input_layernorm = RMSNorm(config.hidden_size, config.rms_norm_eps)
        self.self_attn = (LatentAttention if config.is_latent else GroupedQueryAttention)(config, layer)
        self.post_attention_layernorm = RMSNorm(config.hidden_size, config.rms_norm_eps)
        self.mlp = (
            MixtureOfExperts(config)
            if config.has_experts(layer)
            else FeedForward(config.hidden_size, config.intermediate_size)
        )

    def forward(self, x_ND: Tensor, cos: Tensor, sin: Tensor, cache: KeyValueCache, record: Record | None) -> Tensor:
        """Return [N, D]; `record` is told what the gate of a mixture decided."""
        x_ND = x_ND + self.self_attn(self.input_layernorm(x_ND), cos, sin, cache)
        normed = self.post_attention_layernorm(x_ND)
        if isinstance(self.mlp, MixtureOfExperts):
            out, routing = self.mlp(normed)
            if record is not None:
                record(self.layer, routing)
        else:
            out = self.mlp(normed)
        result: Tensor = x_ND + out
        return result


class SharedHead(nn.Module):
    """The norm before the output head of a prediction module; the head itself is the main model's."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.norm = RMSNorm(config.hidden_size, config.rms_norm_eps)


class PredictionModule(Block):
    """Multi-token prediction module k (V3, section 2.2): predicts one token further than the level before it.

    The report concatenates [hidden ; embedding]; the released `eh_proj` is used as [embedding ; hidden], and so it is
    here. Embedding and output head are the main model's: the copies in a checkpoint are not parameters here.
    """

    def __init__(self, config: ModelConfig, layer: int) -> None:
        super().__init__(config, layer)
        self.config = config
        self.enorm = RMSNorm(config.hidden_size, config.rms_norm_eps)
        self.hnorm = RMSNorm(config.hidden_size, config.rms_norm_eps)
        self.eh_proj = Linear(2 * config.hidden_size, config.hidden_size, bias=False)
        self.shared_head = SharedHead(config)

    def predict(
        self,
        hidden_ND: Tensor,
        embedded_ND: Tensor,
        positions_N: Tensor,
        cache: KeyValueCache,
        record: Record | None = None,
    ) -> Tensor:
        """Return hidden_ND after `shared_head.norm`, ready for `Transformer.logits` and for the next module.

        Args:
            hidden_ND: of the level before (module 0: what `Transformer.forward` returned) at positions i.
            embedded_ND: the embedding of the token this level may see besides: at i + k + 1 for module k.
            positions_N: the positions i.
            cache: its layer num_hidden_layers + k is used.
            record: as in `Transformer.forward`.

        """
        x_ND = self.eh_proj(torch.cat((self.enorm(embedded_ND), self.hnorm(hidden_ND)), dim=-1))
        x_ND = self(x_ND, *rotary.cos_sin(self.config, positions_N), cache, record)
        out: Tensor = self.shared_head.norm(x_ND)
        return out


class Decoder(nn.Module):
    """The weights under `model.` in a checkpoint; prediction modules follow the last block, as published."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.embed_tokens = Embedding(config.vocab_size, config.hidden_size)
        main, every = config.num_hidden_layers, config.num_cache_layers
        blocks = [Block(config, layer) for layer in range(main)]
        self.layers = nn.ModuleList([*blocks, *(PredictionModule(config, layer) for layer in range(main, every))])
        self.norm = RMSNorm(config.hidden_size, config.rms_norm_eps)


class Transformer(nn.Module):
    """A causal language model of any of the four architectures.

    Built under `torch.device("meta")` it costs no memory and takes its weights by `load_state_dict(assign=True)`;
    it has no buffers besides the gates' float32 biases, which are part of the state.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        self.model = Decoder(config)
        if not config.tie_word_embeddings:
            self.lm_head = Linear(config.hidden_size, config.vocab_size, bias=False)
        self.initialise()

    @property
    def mtp(self) -> nn.ModuleList:
        """The multi-token prediction modules, in order of depth."""
        return self.model.layers[self.config.num_hidden_layers :]

    def forward(
        self, tokens_N: Tensor, positions_N: Tensor, cache: KeyValueCache, *, record: Record | None = None
    ) -> Tensor:
        """Run the main model over a flat batch and return hidden_ND after the final norm.

        Args:
            tokens_N: int64 ids; sequences one after another, as `cache.groups` says.
            positions_N: int64 position of every token in its sequence.
            cache: where entries are written and read; `NoCache` for whole sequences.
            record: called as record(layer, Routing) by every mixture of experts.

        """
        x_ND = self.model.embed_tokens(tokens_N)
        cos, sin = rotary.cos_sin(self.config, positions_N)
        for block in self.model.layers[: self.config.num_hidden_layers]:
            x_ND = block(x_ND, cos, sin, cache, record)
        hidden_ND: Tensor = self.model.norm(x_ND)
        return hidden_ND

    def predict_further(
        self,
        depth: int,
        hidden_ND: Tensor,
        next_tokens_N: Tensor,
        positions_N: Tensor,
        cache: KeyValueCache,
        *,
        record: Record | None = None,
    ) -> Tensor:
        """Run prediction module `depth` (0-based) and return its hidden_ND; `logits` of row i predict token i+depth+2.

        `next_tokens_N` holds, for the row at position i, the token at position i + depth + 1; the other arguments are
        those of `PredictionModule.predict`. The cache's layer num_hidden_layers + depth is used, so the module needs
        every earlier row of the sequence to have gone through it too.
        """
        module = cast(PredictionModule, self.mtp[depth])
        return module.predict(hidden_ND, self.model.embed_tokens(next_tokens_N), positions_N, cache, record)

    def logits(self, hidden_MD: Tensor) -> Tensor:
        """Return logits_MV in float32 for rows that `forward` or `predict_further` returned."""
        weight = self.model.embed_tokens.weight if self.config.tie_word_embeddings else self.lm_head.weight
        return F.linear(hidden_MD, weight).float()

    @torch.no_grad()
    def initialise(self, generator: torch.Generator | None = None) -> None:
        """Draw every weight from N(0, initializer_range) (V2, section 3.1.2); norms one, biases zero."""
        for module in self.modules():
            for name, parameter in module.named_parameters(recurse=False):
                if isinstance(module, RMSNorm):
                    parameter.fill_(1.0)
                elif name == "bias":
                    parameter.zero_()
                else:
                    parameter.normal_(0.0, self.config.initializer_range, generator=generator)
