"""Whether the engine keeps its memory, its pages and its word over hours of everything at once.

    .venv/bin/python benchmarks/soak.py --minutes 60 [--threads 1] [--seed 0] [--json]

Two engines in one process, the embedded model and a small random V3 model with a prediction module, get random
requests: long and short, prefixes seen before (in memory, on a disk too small for them) and never, greedy and seeded,
with penalties, stop strings, log probabilities, adapters (one gets new weights now and then), thoughts, demanded forms,
users and priorities, more than the queue takes. Requests are cancelled, receivers raise, steps fail, pages run out. One
request in eight is asked again of an engine that does nothing else, without guesses or caches: it must say the same.

Every minute the load stops and every page must be given back; the V3 engine is closed and made anew. In runs of at
least 20 minutes threads and open files may not be more than after the first tenth, and memory, by a line through those
moments, may grow by --max-drift MiB an hour. Ends with status 1 and says why when anything is wrong.
"""

import argparse
import gc
import json
import logging
import os
import random
import statistics
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fathom.engine import Engine, Finished
    from fathom.models.lora import Adapter

SCHEMA = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "maxLength": 20},
        "age": {"type": "integer", "minimum": 0, "maximum": 120},
        "tags": {"type": "array", "items": {"enum": ["red", "green", "blue"]}, "maxItems": 3},
    },
    "required": ["name", "age", "tags"],
    "additionalProperties": False,
}
PERIOD = 60.0  # seconds between two rests
Sample = dict[str, int]
LONG = 20 * 60.0  # from here on memory has settled
FAILURE = "a failure that the soak test injected"


class Soak:
    """Asks, listens, and keeps what was wrong."""

    def __init__(self, seed: int, threads: int, home: Path) -> None:
        self.random = random.Random(seed)
        self.threads, self.home = threads, home
        self.wrong: list[str] = []
        self.counts: Counter[str] = Counter()
        self.failing = True  # whether steps may fail
        self.embedded, self.alone = self._embedded(), self._reference()
        self.v3, self.v3_alone = self._v3(), self._v3(speculation="off", failing=False)
        words = self.embedded.tokenizer.encode(Path(__file__).read_text())
        self.prefixes = [words[i * 97 : i * 97 + length] for i, length in enumerate((70, 130, 300, 700, 1200) * 2)]
        for engine in (self.embedded, self.alone):  # what is made once, at first use, is there from the beginning
            asked = Asked(False, {"messages": "A person, please.", "form": True, "max_tokens": 40}, 1.0)
            engine.submit(self.request(engine, asked.options), asked.hear)
            asked.over.wait()

    # Engines ----------------------------------------------------------------------------------------------------------

    def _embedded(self) -> "Engine":
        """The embedded model with too few pages for what will run, and a disk cache too small for what was asked."""
        import fathom
        from fathom.engine import EngineLimits

        limits = EngineLimits(max_running=12, max_queued_requests=16)
        engine = fathom.load(
            "smollm2:135m", threads=self.threads, cache_bytes=64 << 20, disk_cache_bytes=96 << 20, limits=limits
        )
        for name, seed in (("steady", 1), ("moving", 2)):
            engine.add_adapter(name, self._adapter(engine, seed))
        self._let_fail(engine)
        return engine

    def _reference(self) -> "Engine":
        import fathom

        engine = fathom.load("smollm2:135m", threads=self.threads, cache_bytes=64 << 20, speculation="off")
        engine.add_adapter("steady", self._adapter(engine, 1))
        return engine

    def _v3(self, speculation: Any = "auto", *, failing: bool = True) -> "Engine":
        """Random weights, the same every time, with the embedded model's tokenizer."""
        from fathom.checkpoints import open_checkpoint
        from fathom.engine import Engine, EngineLimits
        from fathom.engine.native_runner import NativeRunner

        folder = self.home / "v3"
        if not folder.exists():
            _write_v3(folder, self.embedded.runner.vocab_size)
        runner = NativeRunner(open_checkpoint(folder), n_pages=24, max_context=1536, threads=self.threads)
        limits = EngineLimits(max_running=8, max_queued_requests=8)
        tokenizer, template = self.embedded.tokenizer, self.embedded.template
        engine = Engine(runner, tokenizer, template, model_name="v3", limits=limits, speculation=speculation)
        if failing:
            self._let_fail(engine)
        return engine

    def _adapter(self, engine: "Engine", seed: int) -> "Adapter":
        import torch

        from fathom.models.lora import Adapter

        config, numbers = engine.config, torch.Generator().manual_seed(seed)
        assert config is not None
        size, pairs = config.hidden_size, {}
        for layer in range(0, config.num_hidden_layers, 3):
            shapes = {"self_attn.q_proj": size, "mlp.up_proj": config.intermediate_size}
            for part, rows in shapes.items():
                pair = (torch.randn(n, generator=numbers) * 0.02 for n in ((8, size), (rows, 8)))
                pairs[f"model.layers.{layer}.{part}"] = tuple(pair)
        return Adapter(1.0, pairs)  # type: ignore[arg-type]

    def _let_fail(self, engine: "Engine") -> None:
        """One step in 400 raises, before or after the model ran."""
        step, numbers = engine.runner.step, random.Random(7)

        def faulty(sequences: Any) -> Any:
            fate = numbers.random() if self.failing else 1.0
            if fate < 1 / 800:
                raise MemoryError(FAILURE)
            logits = step(sequences)
            if fate < 1 / 400:
                raise RuntimeError(FAILURE)
            return logits

        engine.runner.step = faulty  # type: ignore[method-assign]

    # Requests ---------------------------------------------------------------------------------------------------------

    def draw(self, v3: bool) -> dict[str, Any]:
        """What is asked, as `Engine.request` takes it; a form as its schema, under "form"."""
        numbers = self.random
        options: dict[str, Any] = {
            "max_tokens": numbers.choice((1, 8, 24, 60, 120)),
            "salt": numbers.choice((None, "one user", "another")),
            "priority": numbers.choice((0, 0, 0, 1)),
        }
        if numbers.random() < 0.5:
            options["temperature"] = 0.0
        else:
            options |= {"temperature": 0.8, "seed": numbers.randrange(2**31), "top_p": numbers.choice((1.0, 0.9))}
        options |= numbers.choice(({}, {"logprobs": 2}, {"stop": ("the",)}, {"repetition_penalty": 1.0}))
        kind = numbers.random()
        if kind < 0.2 and not v3:
            options |= {"messages": "Describe a person in JSON.", "form": True, "max_tokens": 120}
        elif kind < 0.3 and not v3:
            options |= {"messages": "What is 17 + 25?", "thinking": True, "max_thought_tokens": 40}
        else:
            most = 1000 if v3 else 4000
            prefix = numbers.choice(self.prefixes)[:most]
            own = [numbers.randrange(100, 40000) for _ in range(numbers.choice((1, 5, 60, 200)))]
            options |= {"prompt": [*prefix, *own], "ignore_eos": numbers.random() < 0.5}
            if not v3:
                options["adapter"] = numbers.choice((None, None, "steady", "moving"))
        return options

    def request(self, engine: "Engine", options: dict[str, Any]) -> Any:
        """The request of an engine's own."""
        from fathom.text import answer_grammar

        options = dict(options)
        messages = options.pop("messages", None)
        if options.pop("form", False):
            grammar = answer_grammar(engine.tokenizer, None, SCHEMA, None)
            assert grammar is not None
            options["constraint"] = engine.constrain(grammar)
        return engine.request(messages, **options)

    def ask(self) -> "Asked | None":
        """Submit one more; None where the queue is full."""
        from fathom.engine.errors import QueueFull

        v3 = self.random.random() < 0.3
        engine = self.v3 if v3 else self.embedded
        asked = Asked(v3, self.draw(v3), self.random.random())
        try:
            ticket = engine.submit(self.request(engine, asked.options), asked.hear)
        except QueueFull:
            self.counts["refused"] += 1
            return None
        asked.cancel = ticket.cancel
        self.counts["asked"] += 1
        return asked

    def judge(self, asked: "Asked") -> None:
        """Whether it ended as it may, and, of some, whether it says what it says alone."""
        finished = asked.finished
        assert finished is not None
        self.counts[finished.reason] += 1
        if finished.reason == "error" and FAILURE not in str(finished.error):
            self.wrong.append(f"{asked.options} ended with {finished.error}")
        if finished.reason == "cancelled" and asked.fate > 0.15:
            self.wrong.append(f"{asked.options} was cancelled, and nobody asked for that")
        if asked.options.get("form") and finished.reason == "stop":
            json.loads("".join(asked.texts))
            self.counts["forms kept"] += 1
        if finished.reason in ("stop", "length") and asked.fate > 0.875 and asked.options.get("adapter") != "moving":
            self.compare(asked)

    def compare(self, asked: "Asked") -> None:
        """Ask the same of an engine that does nothing else."""
        engine = self.v3_alone if asked.v3 else self.alone
        again = Asked(asked.v3, asked.options, 1.0)
        options = asked.options | {"salt": str(self.random.random())}  # no prefix of another
        engine.submit(self.request(engine, options), again.hear)
        again.over.wait()
        assert again.finished is not None
        assert asked.finished is not None
        self.counts["compared"] += 1
        if (again.finished.tokens, again.texts) != (asked.finished.tokens, asked.texts):
            self.wrong.append(f"{asked.options} said {asked.finished.tokens}, alone {again.finished.tokens}")

    # Rests ------------------------------------------------------------------------------------------------------------

    def rest(self, running: list["Asked"]) -> Sample:
        """Let all finish, and look what was not given back."""
        for asked in running:
            if not asked.over.wait(600):
                raise SystemExit(f"{asked.options} never ended")
            self.judge(asked)
        running.clear()
        for engine in (self.embedded, self.v3):
            load = _settled(engine)
            if load.pages_held or load.running or load.waiting or not load.healthy:
                self.wrong.append(f"{engine.model_name} at rest: {load}")
        load = self.embedded.stats().load
        self.counts["preemptions"] = load.preemptions
        self.counts["pages from disk"] = load.counts.pages_from_disk
        self.counts["guesses accepted"] = load.counts.accepted_tokens
        self.counts["failed steps"] = load.counts.failed_steps
        self.v3.close()
        self.v3 = self._v3()
        self.embedded.update_adapter("moving", self._adapter(self.embedded, self.random.randrange(2**31)))
        gc.collect()
        return {
            "rss_kib": _resident_kib(),
            "objects": len(gc.get_objects()),
            "threads": sum(1 for _ in Path("/proc/self/task").iterdir()),
            "files": sum(1 for _ in Path("/proc/self/fd").iterdir()),
        }

    def run(self, seconds: float, report: Callable[[float, dict[str, int]], None]) -> list[tuple[float, Sample]]:
        """Until the time is over; what was seen at each rest."""
        began, samples = time.monotonic(), list[tuple[float, Sample]]()
        while (now := time.monotonic() - began) < seconds or len(samples) < 2:
            running: list[Asked] = []
            while time.monotonic() - began < now + min(PERIOD, max(seconds / 4, 5.0)):
                for _ in range(self.random.choice((0, 1, 1, 2, 12))):
                    if (asked := self.ask()) is not None:
                        running.append(asked)
                time.sleep(self.random.random())
                for asked in [one for one in running if one.over.is_set()]:
                    running.remove(asked)
                    self.judge(asked)
            samples.append((time.monotonic() - began, self.rest(running)))
            report(*samples[-1])
        return samples

    def close(self) -> None:
        """End all engines."""
        for engine in (self.embedded, self.alone, self.v3, self.v3_alone):
            engine.close()


@dataclass(eq=False)
class Asked:
    """One request, and what came of it. `fate` below 0.1: cancelled at some token; to 0.15: its receiver raises."""

    v3: bool
    options: dict[str, Any]
    fate: float
    cancel: Callable[[], None] = lambda: None
    texts: list[str] = field(default_factory=list)
    finished: "Finished | None" = None
    over: threading.Event = field(default_factory=threading.Event)
    events: int = 0

    def hear(self, event: Any) -> None:
        """Runs in the engine's thread."""
        from fathom.engine import Finished

        self.events += 1
        if isinstance(event, Finished):
            self.finished = event
            self.over.set()
            return
        self.texts.append(getattr(event, "text", ""))
        if self.fate < 0.1 and self.events > 100 * self.fate:
            self.cancel()
        elif 0.1 <= self.fate < 0.15 and self.events > 5:
            raise ValueError("a receiver that fails, on purpose")


def _write_v3(folder: Path, vocabulary: int) -> None:
    import torch

    from fathom.checkpoints import save_model
    from fathom.models import ModelConfig
    from fathom.models.transformer import Transformer

    sizes = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 3, "max_position_embeddings": 2048}
    heads = {"num_attention_heads": 4, "num_key_value_heads": 4, "head_dim": 0}
    latent = {"q_lora_rank": 32, "kv_lora_rank": 32, "qk_nope_head_dim": 16, "qk_rope_head_dim": 16, "v_head_dim": 16}
    experts = {"moe_intermediate_size": 32, "n_routed_experts": 8, "n_shared_experts": 1, "num_experts_per_tok": 2}
    routing = {
        "topk_method": "noaux_tc",
        "scoring_func": "sigmoid",
        "norm_topk_prob": True,
        "routed_scaling_factor": 2.5,
    }
    own = sizes | heads | latent | experts | routing
    config = ModelConfig(
        architecture="deepseek_v3",
        vocab_size=vocabulary,
        first_k_dense_replace=1,
        num_nextn_predict_layers=1,
        tie_word_embeddings=False,
        topk_method="noaux_tc",
        scoring_func="sigmoid",
        norm_topk_prob=True,
        routed_scaling_factor=2.5,
        **own,
    )
    model = Transformer(config)
    model.initialise(torch.Generator().manual_seed(0))
    save_model(model.to(torch.bfloat16), folder)


def _settled(engine: "Engine") -> Any:
    """Its load at rest: pages on their way from the disk for a request that was cancelled are let go within moments."""
    for _ in range(100):
        load = engine.stats().load
        if not load.pages_held:
            break
        time.sleep(0.05)
    return load


def _resident_kib() -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1])
    raise SystemExit("this needs Linux: /proc/self/status has no VmRSS")


def verdict(soak: Soak, samples: list[tuple[float, Sample]], max_drift: float) -> dict[str, Any]:
    """What was seen, in numbers, and what was wrong."""
    seconds = samples[-1][0]
    settled = [one for one in samples if one[0] >= seconds / 10] if len(samples) > 3 else samples
    times = [at / 3600 for at, _ in settled]
    drift = statistics.linear_regression(times, [one["rss_kib"] / 1024 for _, one in settled]).slope
    objects = statistics.linear_regression(times, [one["objects"] for _, one in settled]).slope
    first, last = settled[0][1], settled[-1][1]
    if seconds >= LONG:
        for name in ("threads", "files"):
            if last[name] > first[name]:
                soak.wrong.append(f"{name}: {first[name]} in the beginning, {last[name]} in the end")
        if drift > max_drift:
            soak.wrong.append(f"memory grows by {drift:.1f} MiB an hour")
    return {
        "minutes": seconds / 60,
        "drift_mib_per_hour": drift,
        "objects_per_hour": objects,
        "rss_mib": [round(one["rss_kib"] / 1024, 1) for _, one in samples],
        "first": first,
        "last": last,
        "counts": dict(soak.counts),
        "wrong": soak.wrong,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=60.0)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--max-drift", type=float, default=16.0, help="MiB an hour")
    parser.add_argument("--json", action="store_true", help="one JSON object at the end")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as home:
        os.environ["FATHOM_HOME"] = home
        logging.getLogger("fathom.engine").setLevel(logging.CRITICAL)  # failures are wanted here
        soak = Soak(args.seed, args.threads, Path(home))
        samples = soak.run(args.minutes * 60, _print)
        facts = verdict(soak, samples, args.max_drift)
        soak.close()
    print(", ".join(f"{count} {name}" for name, count in sorted(facts["counts"].items())))
    print(f"memory: {facts['drift_mib_per_hour']:+.1f} MiB an hour over {facts['minutes']:.1f} minutes")
    for wrong in facts["wrong"]:
        print(f"WRONG: {wrong}")
    if args.json:
        print(json.dumps(facts))
    sys.exit(bool(facts["wrong"]))


def _print(seconds: float, sample: Sample) -> None:
    print(f"{seconds / 60:6.1f} min: " + ", ".join(f"{name} {value}" for name, value in sample.items()), flush=True)


if __name__ == "__main__":
    main()
