"""The cold start's data: worked thoughts, a maths set's own solutions, and the base model's own general answers.

Everything is written as JSONL of conversations, what `fathom train sft` reads. General answers keep what the model can
do already: it learns to think before them, not to say something else.
"""

import json
import random
from collections.abc import Sequence
from concurrent.futures import Future
from pathlib import Path
from typing import Any

from fathom.engine import Engine, Finished
from fathom.engine.request import EngineEvent
from fathom.rl.problems import read_problems
from fathom.rl.suite import TRAINED, problems
from fathom.rl.worked import answer_of, gsm8k_thought, thought_of
from fathom.text import Answer

Conversation = dict[str, Any]

# (question, thought): the thought says what is asked for and how to go about it, as a person would before writing.
GENERAL: Sequence[tuple[str, str, Sequence[str]]] = (
    (
        "Write a short poem about {}.",
        "The user wants a short poem about {0}. I will choose a few pictures of {0} and put them into simple lines.",
        ("the sea", "autumn", "a cat", "the moon", "coffee", "rain", "an old tree", "friendship", "snow", "a train"),
    ),
    (
        "What is {}?",
        "The question is what {0} is. I will define it first and then say what it is good for or why it matters.",
        (
            "photosynthesis",
            "a volcano",
            "inflation",
            "gravity",
            "DNA",
            "democracy",
            "an atom",
            "a glacier",
            "a black hole",
            "the internet",
            "a vaccine",
            "an ecosystem",
        ),
    ),
    (
        "Explain {} to a child.",
        "I have to explain {0} to a child: short sentences, an example from everyday life, no difficult words.",
        (
            "the seasons",
            "why the sky is blue",
            "money",
            "how birds fly",
            "electricity",
            "the heart",
            "magnets",
            "sleep",
        ),
    ),
    (
        "Give me three tips for {}.",
        "Three tips for {0} are wanted. I will make a numbered list with one practical tip each.",
        (
            "sleeping better",
            "saving money",
            "learning a language",
            "a job interview",
            "cooking rice",
            "staying focused",
            "a long flight",
            "growing tomatoes",
            "public speaking",
            "running",
        ),
    ),
    (
        "Write a short email to {}.",
        "An email to {0}. It needs a greeting, one clear request or message, and a polite ending.",
        (
            "my boss asking for a day off",
            "a friend to invite her to dinner",
            "my landlord about a broken heater",
            "a teacher to say thank you",
            "a customer about a late delivery",
            "a colleague about tomorrow's meeting",
        ),
    ),
    (
        "How do I make {}?",
        "The user wants to make {0}. I will name the ingredients and then the steps in order.",
        ("pancakes", "tomato soup", "an omelette", "lemonade", "a fruit salad", "hot chocolate", "garlic bread"),
    ),
    (
        "Tell me about {}.",
        "I should say the most important facts about {0}: what or who it is, and what it is known for.",
        (
            "Paris",
            "the Nile",
            "Japan",
            "Isaac Newton",
            "the Great Wall of China",
            "elephants",
            "Mars",
            "the Amazon",
            "Mozart",
            "penguins",
            "Brazil",
            "Marie Curie",
        ),
    ),
    (
        "Tell me a very short story about {}.",
        "A very short story about {0}. It needs a beginning, a small problem and an ending.",
        ("a lost key", "a brave mouse", "two neighbours", "a robot", "a lighthouse", "a birthday", "a boat"),
    ),
    (
        "What are the advantages of {}?",
        "The question is about the advantages of {0}. I will list the main ones and explain each in a sentence.",
        ("public transport", "reading", "solar power", "working from home", "walking", "open source software"),
    ),
    (
        "What is the capital of {}?",
        "The user asks for the capital of {0}. I will name the city and add one fact about it.",
        ("France", "Germany", "Italy", "Spain", "Japan", "Egypt", "Canada", "Australia", "Brazil", "India", "Russia"),
    ),
    (
        "What is the difference between {}?",
        "I have to compare {0}. I will say what each of them is, and then in what they differ.",
        (
            "a virus and a bacterium",
            "weather and climate",
            "a lake and a sea",
            "tea and coffee",
            "a hill and a mountain",
        ),
    ),
    (
        "Who was {}?",
        "The question is who {0} was. I will say what this person is known for, and when and where they lived.",
        ("Albert Einstein", "Cleopatra", "Leonardo da Vinci", "Jane Austen", "Napoleon", "Charles Darwin", "Galileo"),
    ),
    (
        "Why {}?",
        "I am asked why {0}. I will give the reason first and explain it in a few plain words.",
        (
            "is the sky blue",
            "do leaves fall in autumn",
            "do we sleep",
            "is the sea salty",
            "do cats purr",
            "do we dream",
        ),
    ),
    (
        "Give me an idea for {}.",
        "One good idea for {0} is enough. I will describe it in two or three sentences.",
        (
            "a birthday present",
            "a rainy afternoon",
            "dinner tonight",
            "a weekend trip",
            "a school project",
            "a short story",
        ),
    ),
    (
        "Recommend {}.",
        "The user wants me to recommend {0}. I will name one and say why it is worth it.",
        ("a book for the holidays", "a film for children", "an easy sport", "a healthy breakfast", "a city to visit"),
    ),
    (
        "Is it {}?",
        "A yes or no question: is it {0}? I will say so and give the reason.",
        (
            "healthy to eat fruit every day",
            "safe to swim after eating",
            "good to learn a second language",
            "possible to live without a car",
            "true that bats are blind",
        ),
    ),
    (
        "{}",
        "This is a greeting or small talk. A short and friendly answer is enough.",
        ("Hello!", "How are you?", "Good morning!", "Thank you!", "Who are you?", "What can you do?", "Hi there"),
    ),
)


def conversation(question: str, thought: str | None, answer: str) -> Conversation:
    """One line of the JSONL."""
    turn = {"role": "assistant", "content": answer} | ({"reasoning_content": thought} if thought is not None else {})
    return {"messages": [{"role": "user", "content": question}, turn]}


def worked(per_task: int, seed: int) -> list[Conversation]:
    """Worked thoughts for every trained task at its trained difficulty, without duplicates."""
    found: dict[str, Conversation] = {}
    for task in TRAINED:
        for problem in problems(task, per_task):
            thought = thought_of(problem)
            if thought is not None:
                found[problem.question] = conversation(problem.question, thought, answer_of(problem))
    lines = list(found.values())
    random.Random(seed).shuffle(lines)
    return lines


def from_solutions(file: Path, first: int, last: int) -> list[Conversation]:
    """Problems `first` to `last` of a set in GSM8K's form, with their solutions as thoughts."""
    return [
        conversation(problem.question, gsm8k_thought(problem.entry["answer"]), answer_of(problem))
        for problem in read_problems(file)[first:last]
    ]


def general_prompts(seed: int) -> list[tuple[str, str]]:
    """All (question, thought), in an order drawn from the seed."""
    pairs = [
        (question.format(topic), thought.format(topic)) for question, thought, topics in GENERAL for topic in topics
    ]
    random.Random(seed).shuffle(pairs)
    return pairs


def general(engine: Engine, prompts: Sequence[tuple[str, str]], max_tokens: int = 160) -> list[Conversation]:
    """The model's own answers (without thinking, at its own defaults), with the thought before them.

    An answer that does not end within `max_tokens` is left out: it would teach never to end.
    """
    waiting = [(question, thought, ask(engine, question, max_tokens)) for question, thought in prompts]
    found = []
    for question, thought, answer in waiting:
        text, finished = answer.result()
        if finished.reason == "stop" and text.strip():
            found.append(conversation(question, thought, text.strip()))
    return found


def ask(engine: Engine, question: str, max_tokens: int) -> "Future[tuple[str, Finished]]":
    """Submit one question; the future holds the text of the answer and how it ended."""
    future: Future[tuple[str, Finished]] = Future()
    pieces: list[str] = []

    def on_event(event: EngineEvent) -> None:
        if isinstance(event, Answer):
            pieces.append(event.text)
        elif isinstance(event, Finished):
            future.set_result(("".join(pieces), event))

    engine.submit(engine.request(question, max_tokens=max_tokens, seed=0), on_event)
    return future


def write_jsonl(file: Path, lines: Sequence[Conversation]) -> None:
    """Write conversations, one a line."""
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text("".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines), encoding="utf-8")
