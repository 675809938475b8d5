"""Constrained decoding: an answer that must have a form gets only tokens with which it can still have it.

The grammars are llguidance's; a mask over the vocabulary takes tens of microseconds. A constraint sleeps until the
parser of the answer says that its place has come (after the thought, or inside a tool call), so thoughts are free.
"""

import base64
import json
import math
import threading
from collections import OrderedDict
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from fathom.engine.arrays import Logits, arrays_of
from fathom.text import Grammar, GrammarError, StreamParser, Tokenizer
from fathom.text.worker_process import WorkerProcess, WorkerProcessError

if TYPE_CHECKING:
    from llguidance import LLMatcher, LLTokenizer

MAX_SOURCE = 512 * 2**10  # characters of a grammar
MAX_SECONDS = 4.0  # to try one
_KEPT = 32  # grammars that were tried, kept for those who ask again
_MAX_ANSWER = 2**20
# About 20 ms of one step at most, and 20 MB of automaton: what needs more is refused when it is tried.
_LIMITS: Mapping[str, Any] = {"step_lexer_fuel": 200_000, "max_lexer_states": 20_000, "verbose_errors": False}


class Grammars:
    """Compiles grammars for one vocabulary. Safe to call from any thread; the first call takes a second or so."""

    def __init__(self, tokenizer: Tokenizer, vocab_size: int) -> None:
        self._tokenizer = tokenizer
        self._vocab_size = vocab_size
        self._kept: OrderedDict[str, LLMatcher] = OrderedDict()
        self._lock = threading.Lock()

    def compile(self, grammar: Grammar) -> "Constraint":
        """A grammar as the engine takes it. Raises GrammarError when it is none, or takes too much."""
        with self._lock:
            matcher = self._kept.get(grammar.source)
            if matcher is None:
                self._try(grammar.source)
                matcher = self._kept[grammar.source] = self._matcher(grammar.source)
            self._kept.move_to_end(grammar.source)
            while len(self._kept) > _KEPT:
                self._kept.popitem(last=False)
        return Constraint(grammar, matcher, self._vocab_size)

    def close(self) -> None:
        """End the process in which grammars are tried."""
        if "_worker" in self.__dict__:
            self._worker.close()

    def _try(self, source: str) -> None:
        if len(source) > MAX_SOURCE:
            raise GrammarError(f"the schemas of this request are too large ({len(source)} characters as a grammar)")
        try:
            answer = self._worker.ask({"source": source, "limits": dict(_LIMITS)}, MAX_SECONDS)
        except WorkerProcessError as error:
            raise GrammarError(f"answers cannot be constrained here: {error}") from error
        if answer is None:
            raise GrammarError(
                f"the schema takes more than {MAX_SECONDS:g} seconds or too much memory to prepare: simplify its "
                "patterns, multipleOf and repetitions"
            )
        if answer["error"]:
            raise GrammarError(f"the schema cannot be followed: {answer['error']}")

    def _matcher(self, source: str) -> "LLMatcher":
        from llguidance import LLMatcher, LLParserLimits

        limits = LLParserLimits(**_LIMITS)
        matcher = LLMatcher(self._library_tokenizer, LLMatcher.grammar_from_lark(source), log_level=0, limits=limits)
        if matcher.is_error():
            raise GrammarError(f"the schema cannot be followed: {matcher.get_error()}")
        return matcher

    @cached_property
    def _library_tokenizer(self) -> "LLTokenizer":
        from llguidance import LLTokenizer

        vocabulary = _Vocabulary(self._tokenizer, self._vocab_size)
        return LLTokenizer(vocabulary, eos_token=vocabulary.eos)  # type: ignore[arg-type]

    @cached_property
    def _worker(self) -> WorkerProcess:
        vocabulary = _Vocabulary(self._tokenizer, self._vocab_size)
        greeting = {
            "tokens": [base64.b64encode(token).decode() for token in vocabulary.tokens],
            "special": vocabulary.special_token_ids,
            "eos": vocabulary.eos,
        }
        script = Path(__file__).with_name("constraint_worker.py")
        return WorkerProcess(script, _MAX_ANSWER, json.dumps(greeting).encode() + b"\n")


class _Vocabulary:
    """What the library wants to know of a tokenizer (its TokenizerWrapper, by duck typing)."""

    is_tokenizer_wrapper = True

    def __init__(self, tokenizer: Tokenizer, size: int) -> None:
        if not tokenizer.stop_ids:
            raise GrammarError("this model has no token that ends an answer, so a form cannot be demanded of it")
        self._tokenizer = tokenizer
        self.eos = sorted(tokenizer.stop_ids)
        self.eos_token_id, self.bos_token_id = self.eos[0], tokenizer.bos_id
        known = min(
            size, tokenizer.vocab_size
        )  # models pad their vocabularies; what stands for nothing is never allowed
        self.tokens = [tokenizer.token_bytes(id) for id in range(known)] + [b""] * (size - known)
        self.special_token_ids = sorted(token.id for token in tokenizer.control.values())

    def __call__(self, text: bytes | str) -> list[int]:
        return self._tokenizer.encode(text if isinstance(text, str) else text.decode("utf-8", "replace"))


class Constraint:
    """A compiled grammar; every answer under it has a state of its own."""

    def __init__(self, grammar: Grammar, matcher: "LLMatcher", vocab_size: int) -> None:
        self.grammar = grammar
        self.vocab_size = vocab_size
        self._matcher = matcher

    def state(self, tokenizer: Tokenizer, parser: StreamParser, opens_thought: int | None) -> "ConstraintState":
        """For a new answer that `parser` reads; `opens_thought` is a token with which it may begin to think first."""
        return ConstraintState(self, self._matcher.deep_copy(), tokenizer, parser, opens_thought)


class ConstraintState:
    """One answer on its way through a grammar; used by the engine's thread only.

    `engaged`: the next token must follow the grammar. `failure`: why it no longer can be told what may follow.
    """

    def __init__(
        self,
        constraint: Constraint,
        matcher: "LLMatcher",
        tokenizer: Tokenizer,
        parser: StreamParser,
        opens_thought: int | None,
    ) -> None:
        self.failure: str | None = None
        self._grammar = constraint.grammar
        self._vocab_size = constraint.vocab_size
        self._matcher = matcher
        self._tokenizer = tokenizer
        self._parser = parser
        self._opens_thought = opens_thought
        self._mask = np.zeros(-(-self._vocab_size // 32), dtype=np.int32)
        self.engaged = self._grammar.begins == parser.place == "answer"

    def allowed(self) -> "np.ndarray[tuple[int], np.dtype[np.uint8]]":
        """1 for each token that may follow, 0 for the others [V]."""
        self._matcher.unsafe_compute_mask_ptr(self._mask.ctypes.data, self._mask.nbytes)
        if self._matcher.is_error():
            self.failure = f"the answer's form became too complex to follow: {self._matcher.get_error()}"
        bits = np.unpackbits(self._mask.view(np.uint8), count=self._vocab_size, bitorder="little")
        if self._opens_thought is not None:
            bits[self._opens_thought] = 1
        return bits

    def observe(self, token: int) -> None:
        """Note the chosen token, which the parser has read already."""
        opens_thought, self._opens_thought = self._opens_thought, None
        if not self.engaged:
            self._engage()
        elif token == opens_thought:
            self.engaged = False
        elif not self._matcher.consume_token(token):
            self.failure = f"a token does not follow the answer's form: {self._matcher.get_error()}"
        elif self._grammar.repeats and self._matcher.is_stopped():
            self._matcher.reset()
            self.engaged = False

    def _engage(self) -> None:
        """Begin where the place has come, with the text that the last token already brought there."""
        if self._parser.place != self._grammar.begins:
            return
        begun = self._tokenizer.encode(self._parser.entered_with)
        if self._matcher.validate_tokens(begun) < len(begun):
            return  # no beginning of what is constrained: the parser will take it for text
        self._matcher.consume_tokens(begun)
        self.engaged = True


def apply_constraints(logits_BV: Logits, states: Mapping[int, ConstraintState]) -> None:
    """Rule out, in place, what may not follow; `states` maps rows to engaged states."""
    host = arrays_of(logits_BV).host
    for row, state in states.items():
        logits_BV[row, host(state.allowed() == 0)] = -math.inf
