"""`fathom eval`: report cards of models, as a table, JSON and a chart."""

import argparse
from dataclasses import replace
from pathlib import Path

from fathom.cli.engines import add_model_flags, model_flags, open_engine
from fathom.cli.errors import CommandError
from fathom.cli.settings import resolve
from fathom.cli.terminal import answer, answer_json, note

DESCRIPTION = (
    "Ask a model problems whose answers can be checked, several times each, and report pass@1 with its 95 % interval. "
    "Tasks: suite (the trained tasks of the R1 recipe), suite:hard, suite:untrained, single ones such as gcd, or "
    ".jsonl files of GSM8K, MATH-500, AIME, GPQA, MMLU, C-Eval in their published forms (file.jsonl[6973:]: a part)."
)
EXAMPLE = "fathom eval smollm2:135m --tasks suite,gsm8k.jsonl --samples 4 --style few-shot --json"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The model, the tasks, and how to ask."""
    parser.add_argument("ref", metavar="REF", help="a model reference")
    parser.add_argument("--tasks", default="suite", metavar="A,B", help="what to ask (default: suite)")
    parser.add_argument("--limit", type=int, metavar="N", help="most problems of a task (default 50; a whole file)")
    parser.add_argument("--samples", type=int, default=4, metavar="K", help="answers to each problem (default 4)")
    parser.add_argument(
        "--style", choices=["think", "plain", "few-shot"], help="how to ask (default: think where the model can)"
    )
    parser.add_argument("--lenient", action="store_true", help="take any usual reading of an answer")
    parser.add_argument("--adapter", type=Path, metavar="DIR", help="a low-rank adapter to put on the model")
    parser.add_argument("--max-tokens", type=int, default=256, metavar="N", help="of one answer (default 256)")
    parser.add_argument("--temperature", type=float, default=0.6, metavar="T", help="default 0.6, as R1's protocol")
    parser.add_argument("--top-p", type=float, default=0.95, metavar="P", help="default 0.95")
    parser.add_argument("--seed", type=int, default=0, metavar="S", help="the same seed gives the same report")
    parser.add_argument("--perplexity", type=Path, metavar="FILE", help="JSONL of conversations: perplexity too")
    parser.add_argument("--chart", type=Path, metavar="FILE", help="draw a chart (.png or .svg)")
    parser.add_argument("--json", action="store_true", help="one JSON object last")
    add_model_flags(parser)


def run(arguments: argparse.Namespace) -> int:
    """Evaluate and report."""
    if arguments.samples < 1 or (arguments.limit is not None and arguments.limit < 1):
        raise CommandError("--samples and --limit are at least 1", code=2)
    from fathom.evals.report import chart, evaluate, table
    from fathom.rl.rollouts import Sampling, Style
    from fathom.rl.tasks import load_tasks

    tasks = load_tasks(arguments.tasks, arguments.limit)
    settings = resolve({**model_flags(arguments), "model": arguments.ref})
    with open_engine(settings) as engine:
        adapter = None
        if arguments.adapter is not None:
            from fathom.checkpoints.adapters import read_adapter

            adapter = "evaluated"
            engine.add_adapter(adapter, read_adapter(arguments.adapter).adapter)
        style: Style = arguments.style or ("think" if engine.template.thinks else "plain")
        if style == "think" and not engine.template.thinks:
            raise CommandError(f"{engine.model_name} cannot think: --style plain or few-shot", code=2)
        sampling = Sampling(arguments.max_tokens, arguments.temperature, arguments.top_p, style, adapter)
        options = {"samples": arguments.samples, "sampling": sampling, "seed": arguments.seed}
        report = evaluate(engine, tasks, **options, lenient=arguments.lenient, say=note)
    if adapter is not None:
        report = replace(report, adapter=str(arguments.adapter))
    value = report.to_json()
    if arguments.perplexity is not None:
        from fathom.checkpoints import resolve as resolve_model
        from fathom.evals.perplexity import perplexity

        path = resolve_model(arguments.ref)
        system = engine.defaults.system
        value["perplexity"] = perplexity(path, arguments.perplexity, adapter=arguments.adapter, system=system)
    label = f"{report.model} ({report.style})"
    if arguments.chart is not None:
        chart({label: report}, arguments.chart)
    if arguments.json:
        answer_json(value)
        return 0
    answer("\n".join(table({label: report})))
    if "perplexity" in value:
        answer(f"perplexity {value['perplexity']:.3f}")
    return 0
