"""NativeRunner: a whole step of the model as one call into the C++ kernels of `fathom.kernels.cpu`."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate
from typing import TYPE_CHECKING, Literal

import numpy as np

from fathom.checkpoints.checkpoint import Checkpoint
from fathom.checkpoints.gguf_types import numbers_of
from fathom.checkpoints.tensor_names import check_names, present_config
from fathom.engine.adapters import check_adapter
from fathom.engine.machine import physical_cores
from fathom.engine.runner import Continuation, SequenceStep
from fathom.kernels.cpu.build import CompilerError
from fathom.kernels.cpu.library import Config, load
from fathom.kernels.cpu.model import TYPES, Bytes, Floats, Matrix, NativeModel, Vector
from fathom.models import frequencies
from fathom.models.adapter import Adapter
from fathom.models.config import ModelConfig
from fathom.models.shapes import parameter_shapes

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from torch import Tensor

_LATENT_NORM_EPSILON = 1e-6  # whatever rms_norm_eps says: see fathom.models.attention
_GROUP_SCORES = {"deepseek_v2": 1, "deepseek_v3": 2}  # the best expert, the sum of the best two
_MATRICES = {
    "self_attn.q_proj": Matrix.QUERY,
    "self_attn.k_proj": Matrix.KEY,
    "self_attn.v_proj": Matrix.VALUE,
    "self_attn.o_proj": Matrix.OUTPUT,
    "self_attn.q_a_proj": Matrix.QUERY_DOWN,
    "self_attn.q_b_proj": Matrix.QUERY,
    "self_attn.kv_a_proj_with_mqa": Matrix.LATENT,
    "mlp.gate_proj": Matrix.GATE,
    "mlp.up_proj": Matrix.UP,
    "mlp.down_proj": Matrix.DOWN,
    "mlp.shared_experts.gate_proj": Matrix.GATE,
    "mlp.shared_experts.up_proj": Matrix.UP,
    "mlp.shared_experts.down_proj": Matrix.DOWN,
    "eh_proj": Matrix.MERGE,
}
_VECTORS = {
    "input_layernorm.weight": Vector.ATTENTION_NORM,
    "post_attention_layernorm.weight": Vector.FEED_FORWARD_NORM,
    "self_attn.q_proj.bias": Vector.QUERY_BIAS,
    "self_attn.k_proj.bias": Vector.KEY_BIAS,
    "self_attn.v_proj.bias": Vector.VALUE_BIAS,
    "self_attn.o_proj.bias": Vector.OUTPUT_BIAS,
    "self_attn.q_a_layernorm.weight": Vector.QUERY_NORM,
    "self_attn.kv_a_layernorm.weight": Vector.LATENT_NORM,
    "mlp.gate.e_score_correction_bias": Vector.ROUTER_BIAS,
    "enorm.weight": Vector.EMBEDDING_NORM,
    "hnorm.weight": Vector.HIDDEN_NORM,
    "shared_head.norm.weight": Vector.HEAD_NORM,
}
_EXPERTS = {"gate_proj": Matrix.EXPERT_GATE, "up_proj": Matrix.EXPERT_UP, "down_proj": Matrix.EXPERT_DOWN}


class NativeRunner:
    """Weights as stored (their bytes reordered once), a paged BF16 cache, and one native call per step.

    Raises `NativeError` where a step's arguments are impossible (unknown token or page, a page written by two).
    """

    page_tokens = 64

    def __init__(
        self,
        checkpoint: Checkpoint,
        *,
        n_pages: int,
        max_context: int | None = None,
        threads: int | None = None,
        adapter_type: Literal["BF16", "F32"] = "BF16",
    ) -> None:
        """Copies the weights; the cache takes memory only where it is used.

        `max_context` defaults to what the model was trained for, bounded by the cache; `threads` to the physical cores
        this process may use; adapters are kept in `adapter_type`. Raises `MismatchError` where
        tensors are missing, unused or of another shape, and
        ValueError for what `supports` refuses.
        """
        config = present_config(checkpoint.config, checkpoint.names())
        reason = self.supports(checkpoint)
        if reason is not None:
            raise ValueError(f"the native kernels cannot run {checkpoint.name}: {reason}")
        _check_tensors(checkpoint)
        trained = config.max_position_embeddings
        self.n_pages = n_pages
        self.max_context = min(max_context or trained, n_pages * self.page_tokens)
        self.vocab_size = config.vocab_size
        self.max_draft = config.num_nextn_predict_layers
        self._last_steps: Sequence[SequenceStep] = ()
        self._model = NativeModel(_native_config(config, self.max_context, n_pages, threads or physical_cores()))
        self.bytes_per_page = self._model.page_bytes
        self.name = f"native-{self._model.variant}"
        self.page_format = f"{self._model.build} {self.bytes_per_page}"
        _Loader(self._model, checkpoint, config).load()
        self._model.set_rotary(*frequencies.tables(config, self.max_context))
        self._model.check()
        self._config = config
        self._adapter_type = adapter_type
        self._adaptable = _adaptable(checkpoint)
        self._adapters: dict[int, dict[str, int]] = {}  # ranks by weight

    @staticmethod
    def supports(checkpoint: Checkpoint) -> str | None:
        """None if the native kernels can run this checkpoint here, else the reason why not."""
        config = checkpoint.config
        sizes = {"head_dim": config.head_dim}
        if config.is_latent:
            names = ("kv_lora_rank", "qk_rope_head_dim", "qk_nope_head_dim", "v_head_dim")
            sizes = {name: getattr(config, name) for name in names}
        for name, size in sizes.items():
            if size % 16:
                return f"{name} is {size}, not a multiple of 16"
        types = {checkpoint.info(name).type for name in checkpoint.names()}
        if unknown := sorted(types - TYPES.keys()):
            return f"there is no native kernel for weights of type {', '.join(unknown)}"
        try:
            load()
        except CompilerError as error:
            return str(error)
        return None

    def step(self, sequences: Sequence[SequenceStep]) -> Floats:
        """Logits [rows, V], float32."""
        rows = sum(len(part.tokens) - part.logits_from for part in sequences)
        logits = np.empty((rows, self.vocab_size), dtype=np.float32)
        self._model.step(sequences, logits)
        self._last_steps = sequences
        return logits

    def draft(self, continuations: Sequence[Continuation]) -> list[list[int]]:
        """See DraftingRunner."""
        first_rows = accumulate((len(step.tokens) for step in self._last_steps), initial=0)
        kept = [
            (one, step, row)
            for one, step, row in zip(continuations, self._last_steps, first_rows, strict=False)
            if one.kept
        ]
        guesses: list[list[int]] = [[] for _ in kept]
        logits = np.empty((len(kept), self.vocab_size), np.float32)
        for depth in range(self.max_draft):
            parts = [
                SequenceStep(one.seen(step.tokens, guess, depth), step.start, step.pages, one.kept - 1)
                for (one, step, _), guess in zip(kept, guesses, strict=True)
            ]
            self._model.predict(depth, parts, [row for *_, row in kept], logits)
            for guess, token in zip(guesses, logits.argmax(axis=-1).tolist(), strict=True):
                guess.append(token)
        made = iter(guesses)
        return [next(made)[: one.wanted] if one.kept else [] for one in continuations]

    def set_adapter(self, number: int, adapter: Adapter) -> None:
        """See Runner. New weights of the same ranks are written where the old ones lie."""
        check_adapter(adapter, self._adaptable)
        ranks = {name: len(down) for name, (down, _) in adapter.pairs.items()}
        if self._adapters.get(number, ranks) != ranks:
            self._model.drop_adapter(number)
        self._adapters[number] = ranks
        for name, (down, up) in adapter.pairs.items():
            layer, part = _layer_and_part(name)
            role = _MATRICES[part]
            down_bytes, up_bytes = self._adapter_bytes(down), self._adapter_bytes(up)
            if self._config.is_latent and role in (Matrix.QUERY, Matrix.LATENT):
                up_bytes = _halves(self._config, role, up_bytes)
            pair = (down_bytes, up_bytes, len(down))
            self._model.set_adapter(number, role, layer, self._adapter_type, adapter.scale, *pair)

    def drop_adapter(self, number: int) -> None:
        """See Runner."""
        self._adapters.pop(number, None)
        self._model.drop_adapter(number)

    def _adapter_bytes(self, matrix: Tensor | Floats) -> Bytes:
        if isinstance(matrix, np.ndarray):
            stored = _bf16(matrix) if self._adapter_type == "BF16" else matrix
            return np.ascontiguousarray(stored).view(np.uint8)
        import torch

        dtype = torch.bfloat16 if self._adapter_type == "BF16" else torch.float32
        return matrix.detach().to("cpu", dtype).contiguous().view(torch.uint8).numpy()

    def read_page(self, page: int) -> bytes:
        """See PagingRunner."""
        return self._model.page(page).tobytes()

    def write_page(self, page: int, data: bytes | bytearray) -> None:
        """See PagingRunner."""
        self._model.page(page)[:] = np.frombuffer(data, dtype=np.uint8)

    def close(self) -> None:
        """Frees weights and cache."""
        self._model.close()


def _layer_and_part(name: str) -> tuple[int, str]:
    """From "model.layers.3.self_attn.q_proj" to 3 and "self_attn.q_proj"."""
    _, _, layer, part = name.split(".", 3)
    return int(layer), part


def _adaptable(checkpoint: Checkpoint) -> dict[str, tuple[int, int]]:
    """The weights that may have an adapter, by name without ".weight", with their shapes."""
    names = frozenset(checkpoint.names())
    layers = range(checkpoint.config.num_hidden_layers)
    candidates = (f"model.layers.{layer}.{part}" for layer in layers for part in _MATRICES)
    present = (name for name in candidates if f"{name}.weight" in names)
    return {name: _two(checkpoint.info(f"{name}.weight").shape) for name in present}


def _check_tensors(checkpoint: Checkpoint) -> None:
    """Nothing missing, nothing unknown: as `load_model` checks it."""
    config = present_config(checkpoint.config, checkpoint.names())
    check_names(checkpoint, config, parameter_shapes(config))


def _native_config(config: ModelConfig, max_context: int, n_pages: int, threads: int) -> Config:
    return Config(
        layers=config.num_hidden_layers,
        predictions=config.num_nextn_predict_layers,
        vocabulary=config.vocab_size,
        hidden=config.hidden_size,
        heads=config.num_attention_heads,
        kv_heads=config.num_key_value_heads,
        head_size=config.head_dim,
        feed_forward=config.intermediate_size,
        max_context=max_context,
        pages=n_pages,
        threads=threads,
        norm_epsilon=config.rms_norm_eps,
        latent_norm_epsilon=_LATENT_NORM_EPSILON,
        attention_scale=frequencies.softmax_scale(config),
        **(_latent_sizes(config) if config.is_latent else {}),
        **(_expert_settings(config) if config.n_routed_experts else {}),
    )


def _latent_sizes(config: ModelConfig) -> dict[str, int]:
    return {
        "query_rank": config.q_lora_rank or 0,
        "latent_rank": config.kv_lora_rank,
        "nope_size": config.qk_nope_head_dim,
        "rope_size": config.qk_rope_head_dim,
        "value_size": config.v_head_dim,
    }


def _expert_settings(config: ModelConfig) -> dict[str, int | float]:
    """As the gates of `fathom.models.experts`: V2 renormalises or scales, V3 does both."""
    v3 = config.architecture == "deepseek_v3"
    limited = config.topk_group < config.n_group if v3 else config.topk_method == "group_limited_greedy"
    renormalise = config.norm_topk_prob and (v3 or config.num_experts_per_tok > 1)
    return {
        "experts": config.n_routed_experts,
        "active_experts": config.num_experts_per_tok,
        "expert_width": config.moe_intermediate_size,
        "shared_width": config.n_shared_experts * config.moe_intermediate_size,
        "expert_groups": config.n_group,
        "kept_groups": config.topk_group,
        "group_score": _GROUP_SCORES[config.architecture] if limited else 0,
        "sigmoid": int(config.scoring_func != "softmax"),
        "renormalise": int(renormalise),
        "routed_scale": config.routed_scaling_factor if v3 or not renormalise else 1.0,
    }


class _Loader:
    """Hands a checkpoint's tensors to the native model, each as stored."""

    def __init__(self, model: NativeModel, checkpoint: Checkpoint, config: ModelConfig) -> None:
        self.model, self.checkpoint, self.config = model, checkpoint, config
        self.names = frozenset(checkpoint.names())

    def load(self) -> None:
        """All weights, those of prediction modules as further layers."""
        self._matrix(Matrix.EMBEDDING, 0, "model.embed_tokens.weight")
        if not self.config.tie_word_embeddings:
            self._matrix(Matrix.HEAD, 0, "lm_head.weight")
        self._vector(Vector.FINAL_NORM, 0, "model.norm.weight")
        for layer in range(self.config.num_cache_layers):
            self._layer(layer, f"model.layers.{layer}.")

    def _layer(self, layer: int, prefix: str) -> None:
        for part, matrix in _MATRICES.items():
            if (name := f"{prefix}{part}.weight") in self.names:
                self._matrix(matrix, layer, name)
        for part, vector in _VECTORS.items():
            if (name := f"{prefix}{part}") in self.names:
                self._vector(vector, layer, name)
        if self.config.is_latent:
            self._expansions(layer, f"{prefix}self_attn.kv_b_proj.weight")
        if (router := f"{prefix}mlp.gate.weight") in self.names:
            self._experts(layer, router, f"{prefix}mlp.experts.")

    def _matrix(self, role: Matrix, layer: int, name: str) -> None:
        stored = self.checkpoint.stored(name)
        data = stored.data
        if self.config.is_latent and role in (Matrix.QUERY, Matrix.LATENT):
            data = _halves(self.config, role, data)
        self.model.set_matrix(role, layer, stored.type, _two(stored.shape), data)

    def _expansions(self, layer: int, name: str) -> None:
        """kv_b: its value half as stored; its key half transposed, which no quantised type survives, as numbers."""
        config, stored = self.config, self.checkpoint.stored(name)
        heads, plain, rank = config.num_attention_heads, config.qk_nope_head_dim, config.kv_lora_rank
        exact = "BF16" if stored.type == "BF16" else "F32"
        numbers = np.ascontiguousarray(stored.data).view("<u2") if exact == "BF16" else self._numbers(name)
        keys = np.ascontiguousarray(numbers.reshape(heads, -1, rank)[:, :plain].swapaxes(1, 2)).view(np.uint8)
        rows = stored.data.reshape(heads, -1, stored.data.shape[-1])
        for head in range(heads):
            self.model.set_matrix(Matrix.KEY_UP, layer, exact, (rank, plain), keys[head], part=head)
            shape = (config.v_head_dim, rank)
            self.model.set_matrix(Matrix.VALUE_UP, layer, stored.type, shape, rows[head, plain:], part=head)

    def _experts(self, layer: int, router: str, prefix: str) -> None:
        """The router in float32, whatever it is stored as, because near ties decide which experts run."""
        scores = self._numbers(router)
        self.model.set_matrix(Matrix.ROUTER, layer, "F32", _two(scores.shape), scores.view(np.uint8))
        for part, role in _EXPERTS.items():
            for expert in range(self.config.n_routed_experts):
                stored = self.checkpoint.stored(f"{prefix}{expert}.{part}.weight")
                self.model.set_matrix(role, layer, stored.type, _two(stored.shape), stored.data, part=expert)

    def _vector(self, role: Vector, layer: int, name: str) -> None:
        self.model.set_vector(role, layer, self._numbers(name))

    def _numbers(self, name: str) -> Floats:
        stored = self.checkpoint.stored(name)
        return numbers_of(stored.type, stored.data, stored.shape)


def _bf16(x: Floats) -> NDArray[np.uint16]:
    """Rounded to the nearest BF16, ties to even, as PyTorch rounds."""
    bits = np.ascontiguousarray(x).view(np.uint32)
    return ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype(np.uint16)


def _halves(config: ModelConfig, role: Matrix, rows: Bytes) -> Bytes:
    """Rows that feed a rotated part, from interleaved pairs (2i, 2i+1) to halves (i, i+P/2).

    Queries and keys are permuted alike, so scores stay the same, and the kernels rotate in one way only.
    """
    heads = config.num_attention_heads if role is Matrix.QUERY else 1
    split = rows.reshape(heads, len(rows) // heads, -1)
    plain, rotated = np.split(split, [split.shape[1] - config.qk_rope_head_dim], axis=1)
    return np.concatenate((plain, rotated[:, 0::2], rotated[:, 1::2]), axis=1).reshape(rows.shape)


def _two(shape: tuple[int, ...]) -> tuple[int, int]:
    rows, columns = shape
    return rows, columns
