"""How much sooner a prompt answers whose beginning was seen by an earlier process.

    .venv/bin/python benchmarks/prefix.py [--tokens 4000] [--json]

Two processes one after another over the same FATHOM_HOME (a temporary one): the first reads a prefix from nothing, the
second finds it on disk. Both have answered a short question before, so that loading is not counted.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from typing import Any

QUESTION = 24  # tokens after the prefix


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="smollm2:135m")
    parser.add_argument("--tokens", type=int, default=4000)
    parser.add_argument("--json", action="store_true", help="one JSON object at the end")
    parser.add_argument("--worker", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.worker:
        print(json.dumps(work(args.model, args.tokens)))
        return
    with tempfile.TemporaryDirectory() as home:
        command = [sys.executable, __file__, "--worker", "--model", args.model, "--tokens", str(args.tokens)]
        runs = [
            json.loads(subprocess.run(command, env=os.environ | {"FATHOM_HOME": home}, check=True, stdout=-1).stdout)
            for _ in range(2)
        ]
    cold, warm = runs
    facts = {
        "cold": cold,
        "warm": warm,
        "sooner": cold["first_token_seconds"] / warm["first_token_seconds"],
        "sooner_by_cpu_time": cold["cpu_seconds"] / warm["cpu_seconds"],
    }
    for name, one in (("from nothing", cold), ("from disk", warm)):
        print(
            f"{name}: first token after {one['first_token_seconds']:.3f} s, {one['cpu_seconds']:.3f} s of CPU, "
            f"{one['cached_tokens']} of {one['prompt_tokens']} tokens cached"
        )
    print(f"{facts['sooner']:.1f} times sooner; {facts['sooner_by_cpu_time']:.1f} times by CPU time")
    if args.json:
        print(json.dumps(facts))


def work(model: str, tokens: int) -> dict[str, Any]:
    import random

    import fathom

    numbers = random.Random(0)
    with fathom.load(model, disk_cache_bytes=2**31) as engine:
        engine.generate("Good morning!", max_tokens=4)
        prompt = [numbers.randrange(100, engine.runner.vocab_size) for _ in range(tokens + QUESTION)]
        began = time.process_time()
        finished = engine.generate(prompt=prompt, max_tokens=1, temperature=0.0).finished
        return {
            "first_token_seconds": finished.timings.first_token_seconds,
            "cpu_seconds": time.process_time() - began,
            "cached_tokens": finished.usage.cached_tokens,
            "prompt_tokens": finished.usage.prompt_tokens,
        }


if __name__ == "__main__":
    main()
