"""The process in which grammars are tried before the engine takes them; started by `constraint.py`, never imported.

A schema or a regular expression from outside can ask for automata of any size, and the library that builds them cannot
be interrupted. Here it may use so much memory and no more; its parent ends it when it takes too long.
"""

import base64
import json
import random
import re
import sys
from typing import Any

import llguidance
import numpy as np

_MEMORY = 3 * 2**30  # bytes of address space, of which the vocabulary's tree and the threads' stacks take a part
_WALK = 24  # tokens of a random text that is built to see what further steps cost


class Vocabulary:
    """The tokens as the library wants them."""

    is_tokenizer_wrapper = True

    def __init__(self, tokens: list[str], special: list[int], eos: list[int]) -> None:
        self.tokens = [base64.b64decode(token) for token in tokens]
        self.special_token_ids = special
        self.eos_token_id, self.bos_token_id = eos[0], None
        self._ids = {token: id for id, token in enumerate(self.tokens) if token}

    def __call__(self, text: bytes | str) -> list[int]:
        """Any tokens that spell the text: here it does not matter how it is cut, so byte by byte."""
        data = text.encode() if isinstance(text, str) else text
        return [self._ids[data[at : at + 1]] for at in range(len(data)) if data[at : at + 1] in self._ids]


def _limit_memory() -> None:
    try:
        import resource

        resource.setrlimit(resource.RLIMIT_AS, (_MEMORY, _MEMORY))
    except (ImportError, ValueError, OSError):  # Windows has no such limit, macOS none of address space
        return


def _try(tokenizer: llguidance.LLTokenizer, source: str, limits: dict[str, Any]) -> str:
    """What is wrong with a grammar, or nothing."""
    grammar = llguidance.LLMatcher.grammar_from_lark(source)
    matcher = llguidance.LLMatcher(tokenizer, grammar, log_level=0, limits=llguidance.LLParserLimits(**limits))
    chance = random.Random(0)
    for _ in range(_WALK):
        if matcher.is_error() or matcher.is_stopped():
            break
        bits = np.unpackbits(np.frombuffer(matcher.compute_bitmask(), dtype=np.uint8), bitorder="little")
        allowed = np.flatnonzero(bits)
        if not len(allowed):
            break
        matcher.consume_token(int(chance.choice(allowed)))
    return matcher.get_error() if matcher.is_error() else ""


def _explained(error: str) -> str:
    """The library's message without the place in a grammar that the client has never seen."""
    lines = [line for line in error.splitlines() if not re.match(r"\s*(\d+ \||\^\s*$)", line)]
    text = " ".join(line.strip() for line in lines if line.strip())
    text = re.sub(r"^at \d+\(\d+\): (failed to compile JSON schema: )?", "", text)
    if "NoExtension" in text:
        return "nothing fulfils it"
    return text.replace("<non-verbose/>", "").strip()


def main() -> None:
    """Read the vocabulary, then answer requests, one JSON line each, until the input ends."""
    _limit_memory()
    told = json.loads(sys.stdin.buffer.readline())
    tokenizer = llguidance.LLTokenizer(
        Vocabulary(told["tokens"], told["special"], told["eos"]),  # type: ignore[arg-type]
        eos_token=told["eos"],
    )
    sys.stdout.write("ready\n")
    sys.stdout.flush()
    for line in sys.stdin.buffer:
        request = json.loads(line)
        try:
            error = _explained(_try(tokenizer, request["source"], request["limits"]))
        except Exception as problem:  # noqa: BLE001 whatever the library raises is its answer
            error = _explained(str(problem)) or type(problem).__name__
        sys.stdout.write(json.dumps({"error": error}) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
