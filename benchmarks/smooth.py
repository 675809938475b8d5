"""Whether those who read notice that long prompts arrive: the gaps between their tokens.

    .venv/bin/python benchmarks/smooth.py [--streams 2] [--prompts 6] [--json]

Streams decode while prompts of 1,500 tokens come in one after another, without speculation. Printed: median and 99th
percentile of the gaps between two tokens of a stream, with the bound on a step's length and without it.
"""

import argparse
import itertools
import json
import statistics
import time
from typing import Any

LONG = 1500


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="smollm2:135m")
    parser.add_argument("--streams", type=int, default=2)
    parser.add_argument("--prompts", type=int, default=6)
    parser.add_argument("--json", action="store_true", help="one JSON object at the end")
    args = parser.parse_args()
    facts = {}
    for name, stretch in (("bounded", 2.5), ("unbounded", 0.0)):
        facts[name] = one = gaps(args.model, stretch, args.streams, args.prompts)
        print(
            f"{name}: median {1000 * one['median']:.1f} ms, p99 {1000 * one['p99']:.1f} ms, "
            f"{one['p99'] / one['median']:.1f} times; a long prompt's first token after {one['first_token']:.2f} s"
        )
    if args.json:
        print(json.dumps(facts))


def gaps(model: str, stretch: float, streams: int, prompts: int) -> dict[str, Any]:
    import random

    import fathom
    from fathom.engine import EngineLimits, Finished

    numbers = random.Random(0)
    with fathom.load(model, speculation="off", limits=EngineLimits(stretch=stretch)) as engine:

        def prompt(tokens: int) -> list[int]:
            return [numbers.randrange(100, engine.runner.vocab_size) for _ in range(tokens)]

        engine.generate(prompt=prompt(600), max_tokens=40, ignore_eos=True)
        times: list[list[float]] = [[] for _ in range(streams)]
        readers = [
            engine.submit(
                engine.request(prompt=prompt(16), max_tokens=6000, temperature=0.0, ignore_eos=True),
                lambda _, mine=mine: mine.append(time.perf_counter()),  # type: ignore[misc]
            )
            for mine in times
        ]
        while any(len(mine) < 50 for mine in times):
            time.sleep(0.01)
        first_tokens = []
        for _ in range(prompts):
            (*_, last) = engine.stream(prompt=prompt(LONG), max_tokens=1, temperature=0.0)
            assert isinstance(last, Finished)
            first_tokens.append(last.timings.first_token_seconds or 0.0)
        for reader in readers:
            reader.cancel()
        between = [b - a for mine in times for a, b in itertools.pairwise(mine[20:])]
    return {
        "median": statistics.median(between),
        "p99": statistics.quantiles(between, n=100)[98],
        "first_token": statistics.median(first_tokens),
    }


if __name__ == "__main__":
    main()
