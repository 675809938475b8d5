"""Random models, random steps and random nonsense through one library: run by test_fuzz.py, also under the sanitizers.

Run by itself: python fuzz_steps.py LIBRARY ROUNDS SEED. Needs numpy and the kernels alone, no torch.
"""

import contextlib
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np

from fathom.kernels.cpu.library import Config, Library, NativeError
from fathom.kernels.cpu.model import TYPES, Matrix, NativeModel, Vector, dequantise, product

BLOCK = {"F32": (1, 4), "F16": (1, 2), "BF16": (1, 2), "Q4_0": (32, 18), "Q4_1": (32, 20), "Q5_0": (32, 22)}
BLOCK |= {"Q5_1": (32, 24), "Q8_0": (32, 34), "Q2_K": (256, 84), "Q3_K": (256, 110), "Q4_K": (256, 144)}
BLOCK |= {"Q5_K": (256, 176), "Q6_K": (256, 210)}


class Fuzzer:
    """Draws everything from one seed."""

    def __init__(self, library: Library, seed: int) -> None:
        self.library, self.random = library, np.random.default_rng(seed)

    def integer(self, low: int, high: int) -> int:
        return int(self.random.integers(low, high + 1))

    def weights(self, rows: int, columns: int) -> tuple[str, np.ndarray]:
        """Random bytes of a random type that can hold such rows: any bytes must be safe, NaN scales too."""
        types = [name for name, (width, _) in BLOCK.items() if columns % width == 0]
        name = str(self.random.choice(types))
        width, size = BLOCK[name]
        return name, self.random.integers(0, 256, (rows, columns // width * size), dtype=np.uint8)

    def product(self) -> None:
        rows, columns = self.integer(1, 80), int(self.random.choice([1, 31, 32, 50, 96, 256, 288, 512]))
        name, stored = self.weights(rows, columns)
        count = self.integer(1, 20) if self.random.random() < 0.7 else self.integer(60, 140)  # matrix tiles take many
        x = self.random.standard_normal((count, columns)).astype(np.float32)
        product(name, (rows, columns), stored, x, self.library)
        dequantise(name, (rows, columns), stored, self.library)

    def config(self) -> Config:
        kv_heads = self.integer(1, 4)
        config = Config(
            layers=self.integer(1, 3), vocabulary=self.integer(1, 70), hidden=self.integer(1, 100),
            heads=kv_heads * int(self.random.choice([1, 2, 3, 37])), kv_heads=kv_heads,
            head_size=16 * self.integer(1, 5), feed_forward=self.integer(1, 100), max_context=self.integer(1, 300),
            pages=self.integer(1, 12), threads=self.integer(1, 3), norm_epsilon=1e-6, latent_norm_epsilon=1e-6,
            attention_scale=0.1, routed_scale=1.0,
        )  # fmt: skip
        if self.random.random() < 0.5:
            config.query_rank = self.integer(0, 1) * self.integer(1, 50)
            for name in ("latent_rank", "nope_size", "rope_size", "value_size"):
                setattr(config, name, 16 * self.integer(1, 5))
        if self.random.random() < 0.5:
            config.expert_groups = self.integer(1, 4)
            config.experts = config.expert_groups * self.integer(2, 5)
            config.kept_groups = self.integer(1, config.expert_groups)
            in_kept = config.kept_groups * (config.experts // config.expert_groups)
            config.active_experts, config.group_score = self.integer(1, in_kept), self.integer(0, 2)
            config.expert_width, config.shared_width = self.integer(1, 50), self.integer(0, 1) * self.integer(1, 60)
            config.sigmoid, config.renormalise = self.integer(0, 1), self.integer(0, 1)
        config.predictions = max(0, self.integer(-2, 2))
        return config

    def model(self, config: Config) -> NativeModel:
        model = NativeModel(config, self.library)
        latent, c = config.latent_rank > 0, config
        query = c.heads * (c.nope_size + c.rope_size if latent else c.head_size)
        output = c.heads * (c.value_size if latent else c.head_size)
        keys = c.kv_heads * c.head_size
        self.matrix(model, Matrix.EMBEDDING, 0, c.vocabulary, c.hidden)
        model.set_vector(Vector.FINAL_NORM, 0, self.vector(c.hidden))
        for layer in range(c.layers + c.predictions):
            if layer >= c.layers:
                self.matrix(model, Matrix.MERGE, layer, c.hidden, 2 * c.hidden)
                for vector in (Vector.EMBEDDING_NORM, Vector.HIDDEN_NORM, Vector.HEAD_NORM):
                    model.set_vector(vector, layer, self.vector(c.hidden))
            self.matrix(model, Matrix.QUERY, layer, query, c.query_rank or c.hidden)
            self.matrix(model, Matrix.OUTPUT, layer, c.hidden, output)
            for vector in (Vector.ATTENTION_NORM, Vector.FEED_FORWARD_NORM, Vector.OUTPUT_BIAS):
                model.set_vector(vector, layer, self.vector(c.hidden))
            if latent:
                self.matrix(model, Matrix.LATENT, layer, c.latent_rank + c.rope_size, c.hidden)
                self.matrix(model, Matrix.KEY_UP, layer, c.latent_rank, c.nope_size, c.heads)
                self.matrix(model, Matrix.VALUE_UP, layer, c.value_size, c.latent_rank, c.heads)
                model.set_vector(Vector.LATENT_NORM, layer, self.vector(c.latent_rank))
            else:
                self.matrix(model, Matrix.KEY, layer, keys, c.hidden)
                self.matrix(model, Matrix.VALUE, layer, keys, c.hidden)
                model.set_vector(Vector.KEY_BIAS, layer, self.vector(keys))
            if c.query_rank:
                self.matrix(model, Matrix.QUERY_DOWN, layer, c.query_rank, c.hidden)
                model.set_vector(Vector.QUERY_NORM, layer, self.vector(c.query_rank))
            self.feed_forward(model, layer, c)
        table = self.random.standard_normal((c.max_context, (c.rope_size if latent else c.head_size) // 2))
        model.set_rotary(table.astype(np.float32), table.astype(np.float32))
        model.check()
        return model

    def feed_forward(self, model: NativeModel, layer: int, c: Config) -> None:
        routed = c.experts > 0 and layer > 0
        if routed:
            model.set_matrix(Matrix.ROUTER, layer, "F32", (c.experts, c.hidden), self.floats(c.experts, c.hidden))
            model.set_vector(Vector.ROUTER_BIAS, layer, self.vector(c.experts))
            self.matrix(model, Matrix.EXPERT_GATE, layer, c.expert_width, c.hidden, c.experts)
            self.matrix(model, Matrix.EXPERT_UP, layer, c.expert_width, c.hidden, c.experts)
            self.matrix(model, Matrix.EXPERT_DOWN, layer, c.hidden, c.expert_width, c.experts)
        if width := c.shared_width if routed else c.feed_forward:
            self.matrix(model, Matrix.GATE, layer, width, c.hidden)
            self.matrix(model, Matrix.UP, layer, width, c.hidden)
            self.matrix(model, Matrix.DOWN, layer, c.hidden, width)

    def matrix(self, model: NativeModel, role: Matrix, layer: int, rows: int, columns: int, parts: int = 1) -> None:
        name, stored = self.weights(rows, columns)
        for part in range(parts):
            model.set_matrix(role, layer, name, (rows, columns), stored, part=part)

    def adapters(self, model: NativeModel, config: Config) -> None:
        """Adapters 0 and 1 for some of the weights, right and wrong ones; the second may be dropped again."""
        latent, c = config.latent_rank > 0, config
        output = c.heads * (c.value_size if latent else c.head_size)
        sizes = {Matrix.OUTPUT: (c.hidden, output), Matrix.UP: (c.feed_forward, c.hidden), Matrix.HEAD: (7, 7)}
        if latent:
            sizes[Matrix.LATENT] = (c.latent_rank + c.rope_size, c.hidden)
        else:
            sizes[Matrix.KEY] = (c.kv_heads * c.head_size, c.hidden)
        for _ in range(self.integer(0, 8)):
            role = list(sizes)[self.integer(0, len(sizes) - 1)]
            rank, (rows, columns), kind = self.integer(1, 40), sizes[role], str(self.random.choice(["F32", "BF16"]))
            down, up = (
                self.random.integers(0, 256, (n, k * BLOCK[kind][1]), dtype=np.uint8)
                for n, k in ((rank, columns), (rows, rank))
            )
            with contextlib.suppress(NativeError):
                model.set_adapter(self.integer(0, 1), role, self.integer(-1, c.layers), kind, 0.5, down, up, rank)
        if self.random.random() < 0.3:
            model.drop_adapter(self.integer(-1, 2))

    def floats(self, rows: int, columns: int) -> np.ndarray:
        return self.random.standard_normal((rows, columns)).astype(np.float32).view(np.uint8)

    def vector(self, n: int) -> np.ndarray:
        return self.random.standard_normal(n).astype(np.float32)

    def steps(self) -> tuple[int, int]:
        """Runs steps, valid and not; returns how many were taken and refused."""
        config = self.config()
        model = self.model(config)
        self.adapters(model, config)
        taken = refused = 0
        for _ in range(self.integer(1, 6)):
            parts = [self.part(config) for _ in range(self.integer(0, 4))]
            rows = sum(max(0, len(part.tokens) - part.logits_from) for part in parts)
            logits = np.empty((max(0, rows + int(self.random.random() < 0.1)), config.vocabulary), np.float32)
            with contextlib.suppress(NativeError):  # pages come and go, as the disk cache moves them
                page = model.page(self.integer(-1, config.pages))
                page[:] = (
                    self.random.integers(0, 256, page.shape, dtype=np.uint8) if self.integer(0, 1) else page.copy()
                )
            try:
                model.step(parts, logits)
                for depth in range(config.predictions + int(self.random.random() < 0.1)):
                    first_rows = np.cumsum([0, *(len(part.tokens) for part in parts)])[: len(parts)]
                    model.predict(
                        depth, parts, [int(row) + int(self.random.random() < 0.05) for row in first_rows], logits
                    )
                taken += 1
            except NativeError:
                refused += 1
        model.close()
        return taken, refused

    def part(self, config: Config) -> SimpleNamespace:
        slip = (lambda value: value + self.integer(-3, 3)) if self.random.random() < 0.1 else (lambda value: value)
        room = min(config.max_context, config.pages * 64)
        count = self.integer(1, room)
        start = self.integer(0, room - count)
        pages = self.random.permutation(config.pages)[: (start + count - 1) // 64 + 1].tolist()
        tokens = self.random.integers(0, config.vocabulary, count)
        tokens[0] = slip(int(tokens[0]))
        if pages:
            pages[0] = slip(pages[0])
        return SimpleNamespace(
            tokens=tokens.tolist(),
            start=slip(start),
            pages=pages,
            logits_from=slip(self.integer(0, count)),
            adapter=self.random.choice([None, 0, 1], p=[0.8, 0.12, 0.08]),
        )


def fuzz(library: Library, rounds: int, seed: int) -> tuple[int, int]:
    """Returns how many steps were taken and how many refused."""
    assert set(BLOCK) == set(TYPES)
    taken = refused = 0
    for i in range(rounds):
        fuzzer = Fuzzer(library, seed * 100_003 + i)
        fuzzer.product()
        counts = fuzzer.steps()
        taken, refused = taken + counts[0], refused + counts[1]
    return taken, refused


if __name__ == "__main__":
    print(*fuzz(Library(Path(sys.argv[1])), int(sys.argv[2]), int(sys.argv[3])))
