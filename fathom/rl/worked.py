"""Worked thoughts: for problems of known tasks, the steps that a careful person would write down, made by code.

They are the cold start's data (R1, section 2.3.1 of the Nature version: "thousands of long CoTs") in small: short steps
of one operation each, so that a small model can carry every one of them out.
"""

import re
from collections.abc import Callable, Mapping
from fractions import Fraction

from fathom.rl.problems import Problem


def thought_of(problem: Problem) -> str | None:
    """The worked thought of a problem, or None for a task that has no worker."""
    worker = _WORKERS.get(problem.verifier.removeprefix("gym:"))
    return None if worker is None else worker(problem)


def answer_of(problem: Problem) -> str:
    """The answer as it is to be said."""
    return f"The answer is {problem.answer}."


def sum_steps(first: int, second: int) -> str:
    """An addition or subtraction; beyond small numbers by tens and ones: `47 + 38 = 47 + 30 + 8 = 77 + 8 = 85`."""
    sign, size = ("+", second) if second >= 0 else ("-", -second)
    parts = _places(size)
    if len(parts) == 1 or abs(first) < 10:
        return f"{first} {sign} {size} = {first + second}"
    written, value = [f"{first} {sign} {size}"], first
    for index, part in enumerate(parts[:-1]):
        value += part if second >= 0 else -part
        rest = sum(parts[index + 1 :])
        written.append(f"{value} {sign} {rest}")
    return " = ".join((*written, str(first + second)))


def product_steps(first: int, second: int) -> str:
    """A multiplication by the places of the second: `23 * 47 = 23 * 40 + 23 * 7 = 920 + 161 = 1081`."""
    parts = _places(abs(second))
    if len(parts) == 1:
        return f"{first} * {second} = {first * second}"
    sign = -1 if second < 0 else 1
    split = " + ".join(f"{first} * {sign * part}" for part in parts)
    terms = [first * sign * part for part in parts]
    steps = [f"{first} * {second} = {split}"]
    while len(terms) > 1:
        steps.append(" + ".join(str(term) for term in terms))
        terms = [terms[0] + terms[1], *terms[2:]]
    return " = ".join((*steps, str(first * second)))


def _places(number: int) -> list[int]:
    """47 as [40, 7]; zeros are left out, but 0 itself is [0]."""
    digits = str(number)
    parts = [int(digit) * 10 ** (len(digits) - 1 - place) for place, digit in enumerate(digits)]
    return [part for part in parts if part] or [0]


def _chain_sum(problem: Problem) -> str:
    expression = problem.entry["metadata"]["expression"].replace(" ", "")
    numbers = [int(match) for match in re.findall(r"[+-]?\d+", expression)]
    total, lines = numbers[0], []
    for number in numbers[1:]:
        lines.append(sum_steps(total, number))
        total += number
    return "\n".join(lines)


def _products(problem: Problem) -> str:
    first, second = (int(number) for number in problem.entry["metadata"]["expression"].split(" * "))
    return product_steps(first, second)


def _leg_counting(problem: Problem) -> str:
    from reasoning_gym.arithmetic.leg_counting import ANIMALS

    total = 0
    lines: list[str] = []
    for animal, count in problem.entry["metadata"]["animals"].items():
        legs = ANIMALS[animal]
        line = f"{animal}: {legs} legs, {product_steps(legs, count)}"
        total += legs * count
        if lines and legs:
            line += f", {sum_steps(total - legs * count, legs * count)}"
        lines.append(line)
    return "\n".join(lines)


def _euclid(first: int, second: int) -> tuple[list[str], int]:
    first, second = max(first, second), min(first, second)
    lines = []
    while second:
        quotient, rest = divmod(first, second)
        lines.append(f"{first} - {quotient} * {second} = {first} - {quotient * second} = {rest}")
        first, second = second, rest
    return lines, first


def _gcd(problem: Problem) -> str:
    lines, divisor = _euclid(*problem.entry["metadata"]["numbers"])
    return "\n".join((*lines, f"The last divisor is {divisor}."))


def _lcm(problem: Problem) -> str:
    first, second = problem.entry["metadata"]["numbers"]
    lines, divisor = _euclid(first, second)
    larger, smaller = max(first, second), min(first, second)
    factor = smaller // divisor
    last = f"The last divisor is {divisor}. {smaller} / {divisor} = {factor}."
    return "\n".join((*lines, last, product_steps(larger, factor)))


def _simple_equations(problem: Problem) -> str | None:
    """Equations of the forms that two terms give: a*x + b = c, b - a*x = c, and those with a sum of unknowns."""
    metadata = problem.entry["metadata"]
    name, (left, right) = metadata["variable"], metadata["equation"].split(" = ")
    at = [eval(left, {"__builtins__": {}}, {name: value}) for value in (0, 1)]  # noqa: S307 - our own generator's text
    factor, constant, result = at[1] - at[0], at[0], int(right)
    lines = [f"{left} = {right}"]
    if constant:
        lines.append(f"{_times(factor, name)} = {sum_steps(result, -constant)}")
    rest = result - constant
    if factor != 1:
        lines.append(f"{name} = {rest} / {factor} = {rest // factor}")
    return "\n".join(lines)


def _times(factor: int, name: str) -> str:
    return name if factor == 1 else f"-{name}" if factor == -1 else f"{factor}*{name}"


def _count_bits(problem: Problem) -> str:
    number, ones, lines = int(problem.entry["metadata"]["number"]), 0, []
    while number:
        number, bit = divmod(number, 2)
        ones += bit
        lines.append(f"{2 * number + bit} / 2 = {number} rest {bit}, {ones}")
    return "\n".join(lines)


def _spell_backward(problem: Problem) -> str:
    word = problem.entry["metadata"]["word"]
    return f"{word}: {' '.join(word)}\nbackward: {' '.join(reversed(word))}"


def _letter_counting(problem: Problem) -> str:
    metadata = problem.entry["metadata"]
    letter, total, lines = metadata["target_letter"], 0, []
    for word in metadata["span"]:
        total += word.lower().count(letter)
        lines.append(f"{word}: {' '.join(word.lower())}, {total}")
    return "\n".join(lines)


def _number_filtering(problem: Problem) -> str:
    metadata = problem.entry["metadata"]
    bound = metadata["filter_value"]
    verb, wanted = metadata["operation"].split("_")
    lines = []
    for number in metadata["original_numbers"]:
        difference = Fraction(number) - Fraction(bound)
        relation = "larger" if difference > 0 else "smaller" if difference < 0 else "equal"
        kept = (relation == wanted) == (verb == "keep")
        lines.append(f"{number} is {relation} than {bound}: {'keep' if kept else 'drop'}")
    return "\n".join(lines)


_WORKERS: Mapping[str, Callable[[Problem], str | None]] = {
    "chain_sum": _chain_sum,
    "products": _products,
    "leg_counting": _leg_counting,
    "gcd": _gcd,
    "lcm": _lcm,
    "simple_equations": _simple_equations,
    "count_bits": _count_bits,
    "spell_backward": _spell_backward,
    "letter_counting": _letter_counting,
    "number_filtering": _number_filtering,
}
_ANNOTATION = re.compile(r"<<([^<>]*)>>")


def gsm8k_thought(solution: str) -> str:
    """GSM8K's worked solution as a thought: the calculator's annotations taken out, the final line left away."""
    steps = _ANNOTATION.sub("", solution.rpartition("\n#### ")[0])
    return "\n".join(line.strip() for line in steps.splitlines() if line.strip())
