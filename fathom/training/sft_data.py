"""Conversations for supervised fine-tuning: read, rendered by the model's own template, and marked for the loss."""

import json
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from fathom.data.errors import RecipeError
from fathom.text import ChatTemplate, Message, Tokenizer
from fathom.text.messages import split_thought
from fathom.training.sequences import padded_length

Learned = Literal["answers", "thoughts and answers"]
_ROLES = {"human": "user", "user": "user", "gpt": "assistant", "assistant": "assistant", "system": "system"}
_CONTROL_END = "</think>"


@dataclass(frozen=True, slots=True)
class Example:
    """One turn to learn: all its ids, and for each id whether the model is to learn it."""

    ids: tuple[int, ...]
    learned: tuple[bool, ...]


def read_conversations(file: Path) -> list[list[Message]]:
    """Conversations from JSONL: `{"messages": [...]}` (OpenAI's form, with reasoning_content or <think> in the text) or
    `{"conversations": [{"from", "value"}]}` (ShareGPT).

    Raises:
        RecipeError: the file is missing, or a line is of neither form; names the line.

    """
    if not file.is_file():
        raise RecipeError(f"there is no file of conversations {file}")
    found = []
    with file.open(encoding="utf-8") as lines:
        for number, line in enumerate(lines, start=1):
            if line.strip():
                try:
                    found.append(_conversation(json.loads(line)))
                except (ValueError, TypeError, KeyError, AttributeError) as error:
                    raise RecipeError(f"{file}, line {number}: neither messages nor ShareGPT ({error!r})") from error
    return found


def _conversation(value: Any) -> list[Message]:
    if "messages" in value:
        messages = [
            Message(turn["role"], turn.get("content"), turn.get("reasoning_content")) for turn in value["messages"]
        ]
    else:
        messages = [Message(_ROLES[turn["from"]], turn["value"]) for turn in value["conversations"]]
    if not any(message.role == "assistant" for message in messages):
        raise ValueError("there is no assistant turn to learn")
    return [split_thought(message) for message in messages]


def examples(
    conversation: Sequence[Message], template: ChatTemplate, tokenizer: Tokenizer, learned: Learned
) -> Iterator[Example]:
    """One example for every assistant turn, each seen as the model will see it: after the template's own history.

    A turn with a thought is asked for with thinking; `learned` says whether the thought itself is learned as well.
    """
    if tokenizer.eos_id is None:
        raise RecipeError("the tokenizer has no end-of-sequence token, so a model could not learn to stop")
    for index, message in enumerate(conversation):
        if message.role != "assistant":
            continue
        thinking = message.reasoning_content is not None
        prompt = template.render(conversation[:index], thinking=thinking)
        thought: list[int] = []
        if thinking and prompt.channel == "thought":
            thought = written_thought(message.reasoning_content or "", tokenizer)
        answer = [*tokenizer.encode((message.content or "").strip()), tokenizer.eos_id]
        learn_thought = learned == "thoughts and answers"
        mask = [False] * len(prompt.ids) + [learn_thought] * len(thought) + [True] * len(answer)
        yield Example((*prompt.ids, *thought, *answer), tuple(mask))


def written_thought(thought: str, tokenizer: Tokenizer) -> list[int]:
    """The ids of a thought as the model writes it, up to where the answer begins."""
    end = tokenizer.control_id(_CONTROL_END)
    if end is None:
        # Encoded apart: the engine too ends a thought with these very tokens when its budget is used up.
        return [*tokenizer.encode(f"{thought}\n"), *tokenizer.encode(f"{_CONTROL_END}\n\n")]
    return [*tokenizer.encode(f"{thought}\n"), end, *tokenizer.encode("\n\n")]


@dataclass(slots=True)
class Batches:
    """Batches of about `tokens` tokens, every epoch in an order drawn from the seed; the place is all its state."""

    examples: Sequence[Example]
    tokens: int
    seed: int
    epoch: int = 0
    place: int = 0

    def next(self) -> list[Example]:
        """The next batch; epochs follow one another, and no batch reaches over the end of one."""
        if self.place >= len(self.examples):
            self.epoch, self.place = self.epoch + 1, 0
        order = list(range(len(self.examples)))
        random.Random(f"{self.seed} {self.epoch}").shuffle(order)
        batch: list[Example] = []
        filled = 0
        while self.place < len(order) and (not batch or filled < self.tokens):
            example = self.examples[order[self.place]]
            batch.append(example)
            filled += len(example.ids)
            self.place += 1
        return batch

    @property
    def progress(self) -> float:
        """Epochs done, with the part of the current one."""
        return self.epoch + self.place / len(self.examples)


def micro_batches(batch: Sequence[Example], tokens: int) -> list[list[Example]]:
    """Parts of at most `tokens` rows each (or one example), neighbours in length together."""
    parts: list[list[Example]] = [[]]
    for example in sorted(batch, key=lambda one: -len(one.ids)):
        lengths = [len(one.ids) for one in parts[-1]]
        if parts[-1] and padded_length([*lengths, len(example.ids)]) > tokens:
            parts.append([])
        parts[-1].append(example)
    return parts
