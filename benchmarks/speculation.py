"""What guessing ahead gives where it pays (summaries, code edits, copies) and costs where it does not.

    .venv/bin/python benchmarks/speculation.py [--rounds 3] [--json]

The same questions with speculation off and on, in turn, in one process; greedy and sampled with a seed. The answers are
compared token by token: they are the same.
"""

import argparse
import json
import statistics
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent
SAMPLING: dict[str, dict[str, Any]] = {"greedy": {"temperature": 0.0}, "sampled": {"seed": 1}}


def questions() -> dict[str, str]:
    text = (ROOT / "docs" / "search.md").read_text()[:3000]
    code = (ROOT / "fathom" / "engine" / "pages.py").read_text()[1000:4500]
    return {
        "code edit": f"Rename the class PagePool to Pool in this code and write it all:\n\n```python\n{code}\n```",
        "summary": f"Summarise this text, quoting its important sentences:\n\n{text}",
        "copy": f"Write this text again, word by word:\n\n{text}",
        "story": "Tell me a story about a lighthouse keeper and a whale.",
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="smollm2:135m")
    parser.add_argument("--tokens", type=int, default=200)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", action="store_true", help="one JSON object at the end")
    args = parser.parse_args()
    import fathom

    engines = {mode: fathom.load(args.model, speculation=mode) for mode in ("off", "auto")}
    results = []
    for sampling, options in SAMPLING.items():
        for name, question in questions().items():
            ratios, accepted = [], 0.0
            for number in range(args.rounds + 1):  # the first warms up, and reads the prompt
                rates, answers = {}, {}
                for mode, engine in engines.items():
                    done = engine.generate(question, max_tokens=args.tokens, **options)
                    rates[mode], answers[mode] = done.finished.timings.decode_tokens_per_second, done.tokens
                    usage = done.finished.usage
                if answers["off"] != answers["auto"]:
                    raise SystemExit(f"{name}, {sampling}: the answers differ")
                accepted = usage.accepted_tokens / max(1, usage.completion_tokens)
                if number:
                    ratios.append((rates["auto"] or 0.0) / (rates["off"] or 1.0))
            results.append(
                {"prompt": name, "sampling": sampling, "ratio": statistics.median(ratios), "guessed": accepted}
            )
            print(f"| {name}, {sampling} | {statistics.median(ratios):.2f}x | {accepted:.0%} |", flush=True)
    for engine in engines.values():
        engine.close()
    if args.json:
        print(json.dumps(results))


if __name__ == "__main__":
    main()
