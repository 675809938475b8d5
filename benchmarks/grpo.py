"""A GRPO step of Fathom beside TRL's GRPOTrainer: same model, prompts, group size, lengths, rank and dtype.

    python benchmarks/grpo.py --trl-python /path/to/venv/bin/python      # a venv with trl, transformers, peft, datasets

Each side is a process of its own, one after the other, `--threads` threads each. Fathom samples by its own engine from
the weights of the file (Q4_1) and trains on the same weights in `--dtype`; TRL generates with transformers and trains
in `--dtype` on the exported checkpoint. Printed: seconds of each step, peak memory of the process, completion lengths.
"""

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

QUESTIONS = 4
GROUP = 8
RANK = 16


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--trl-python", type=Path, help="the interpreter that has trl; left out, only Fathom is measured"
    )
    parser.add_argument("--steps", type=int, default=3)
    parser.add_argument("--max-tokens", type=int, default=128)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--dtype", default="float32", choices=["float32", "bfloat16"])
    parser.add_argument("--worker", choices=["fathom", "trl"], help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.worker:
        {"fathom": fathom_steps, "trl": trl_steps}[args.worker](args)
        return
    with tempfile.TemporaryDirectory() as folder:
        prepare(Path(folder))
        results = {"fathom": run("fathom", sys.executable, folder, args)}
        if args.trl_python:
            results["trl"] = run("trl", str(args.trl_python), folder, args)
    for name, result in results.items():
        print(f"{name:8} steps {result['seconds']} s, peak {result['peak_mb']:,} MB, mean length {result['length']}")
    if "trl" in results:
        ours, theirs = results["fathom"], results["trl"]
        speed, memory = theirs["seconds"][-1] / ours["seconds"][-1], ours["peak_mb"] / theirs["peak_mb"]
        print(f"ratio: {speed:.1f}x faster, {memory:.0%} of the memory")
    print(json.dumps(results))


def run(name: str, python: str, folder: str, args: argparse.Namespace) -> dict[str, object]:
    command = [python, __file__, "--worker", name, "--folder", folder, "--steps", str(args.steps)]
    command += ["--max-tokens", str(args.max_tokens), "--threads", str(args.threads), "--dtype", args.dtype]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    value: dict[str, object] = json.loads(done.stdout.strip().splitlines()[-1])
    return value


def prepare(folder: Path) -> None:
    """The checkpoint for TRL, and the prompts of both as ids and text."""
    from fathom.checkpoints import open_checkpoint, resolve
    from fathom.checkpoints.export import export
    from fathom.engine.loading import read_tokenizer
    from fathom.rl.suite import problems
    from fathom.text import Message, chat_template

    export("smollm2:135m", folder / "model", dtype="f32")
    tokenizer = read_tokenizer(open_checkpoint(resolve("smollm2:135m")))
    tokenizer._backend.save(str(folder / "model" / "tokenizer.json"))  # a GGUF file has no tokenizer.json to export
    template = chat_template(tokenizer, dialect="chatml-think")
    asked = list(problems("chain_sum", QUESTIONS))
    texts = [template.render([Message("user", one.question)], thinking=True).text for one in asked]
    lines = [json.dumps({"question": one.question, "answer": one.answer}) for one in asked]
    (folder / "problems.jsonl").write_text("\n".join(lines))
    (folder / "prompts.json").write_text(json.dumps(texts))


def report(seconds: list[float], length: float) -> None:
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1000
    print(json.dumps({"seconds": [round(one, 1) for one in seconds], "peak_mb": peak, "length": round(length, 1)}))


def fathom_steps(args: argparse.Namespace) -> None:
    import torch

    from fathom.rl.grpo import GrpoTrainer
    from fathom.rl.grpo_recipe import GrpoRecipe, Source
    from fathom.rl.rewards import RewardSettings
    from fathom.training.sft_recipe import LoraSettings

    torch.set_num_threads(args.threads)
    recipe = GrpoRecipe(
        model="smollm2:135m",
        output="run",
        steps=args.steps,
        sources=(Source("problems.jsonl"),),
        lora=LoraSettings(rank=RANK, alpha=2 * RANK, targets=("q_proj", "k_proj", "v_proj", "o_proj")),
        rate=1e-5,
        questions=QUESTIONS,
        group_size=GROUP,
        max_tokens=args.max_tokens,
        rewards=RewardSettings(length=1.0),
        dialect="chatml-think",
        precision=args.dtype,
        threads=args.threads,
    )
    trainer = GrpoTrainer(recipe, args.folder)
    seconds, length = [], 0.0
    for _ in range(args.steps):
        start = time.perf_counter()
        metrics, _judged = trainer.take_step()
        seconds.append(time.perf_counter() - start)
        length = metrics.length
    trainer.close()
    report(seconds, length)


def trl_steps(args: argparse.Namespace) -> None:
    import datasets
    import torch
    from peft import LoraConfig
    from transformers import AutoModelForCausalLM, PreTrainedTokenizerFast, TrainerCallback
    from trl import GRPOConfig, GRPOTrainer

    torch.set_num_threads(args.threads)
    texts = json.loads((args.folder / "prompts.json").read_text())
    lengths: list[int] = []

    def reward(completion_ids: list[list[int]], **_: object) -> list[float]:
        lengths[:] = [len(ids) for ids in completion_ids]
        return [float(len(ids) < args.max_tokens) - 0.01 * index for index, ids in enumerate(completion_ids)]

    class Clock(TrainerCallback):  # type: ignore[misc]
        def __init__(self) -> None:
            self.seconds: list[float] = []
            self._start = 0.0

        def on_step_begin(self, *_: object, **__: object) -> None:
            self._start = time.perf_counter()

        def on_step_end(self, *_: object, **__: object) -> None:
            self.seconds.append(time.perf_counter() - self._start)

    config = GRPOConfig(
        output_dir=str(args.folder / "trl"),
        per_device_train_batch_size=QUESTIONS * GROUP,
        num_generations=GROUP,
        max_completion_length=args.max_tokens,
        max_steps=args.steps,
        learning_rate=1e-5,
        beta=0.0,
        use_cpu=True,
        bf16=args.dtype == "bfloat16",
        gradient_checkpointing=False,
        report_to=[],
        save_strategy="no",
        logging_steps=1,
    )
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_file=str(args.folder / "model" / "tokenizer.json"),
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
        additional_special_tokens=["<|im_start|>"],
    )
    dtype = getattr(torch, args.dtype)
    clock = Clock()
    trainer = GRPOTrainer(
        model=AutoModelForCausalLM.from_pretrained(args.folder / "model", dtype=dtype),
        processing_class=tokenizer,
        reward_funcs=reward,
        args=config,
        train_dataset=datasets.Dataset.from_dict({"prompt": texts * args.steps}),
        peft_config=LoraConfig(
            r=RANK, lora_alpha=2 * RANK, target_modules=["q_proj", "k_proj", "v_proj", "o_proj"], task_type="CAUSAL_LM"
        ),
        callbacks=[clock],
    )
    trainer.train()
    report(clock.seconds, sum(lengths) / max(1, len(lengths)))


if __name__ == "__main__":
    main()
