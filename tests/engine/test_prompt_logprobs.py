"""Log probabilities of a prompt's own tokens: the same in chunks, beside others, and with the prompt cached."""

import torch

from fathom.engine import Engine, EngineLimits
from fathom.engine.loops import repeats
from tests.engine.conftest import ByteTemplate, ByteTokenizer, MockRunner

PROMPT = list(b"The quick brown fox jumps over the lazy dog. " * 4)


def ask(engine, **options):
    return engine.generate(prompt=PROMPT, prompt_logprobs=2, max_tokens=3, temperature=0, **options)


def make(**limits):
    template = ByteTemplate()
    return Engine(MockRunner(), ByteTokenizer(), template, model_name="m", limits=EngineLimits(**limits))


def test_every_token_but_the_first_has_one_however_the_prompt_is_cut():
    with make() as whole, make(max_step_tokens=17, max_running=4) as chunked:
        expected = ask(whole)
        assert [one.token for one in expected.prompt_logprobs] == PROMPT[1:]
        assert all(len(one.alternatives) == 2 for one in expected.prompt_logprobs)
        cut = ask(chunked)
        again = ask(chunked)  # now the prompt is cached
        assert again.finished.usage.cached_tokens == 0
        assert cut.prompt_logprobs == again.prompt_logprobs == expected.prompt_logprobs
        assert cut.tokens == again.tokens == expected.tokens


def test_they_are_what_the_model_says_of_the_text():
    """MockRunner gives 10 to the token that its script foresees and 0 to the others."""
    with make() as engine:
        done = ask(engine)
        foreseen = [engine.runner.script(PROMPT[: at + 1]) for at in range(len(PROMPT) - 1)]
        scores = torch.zeros(len(foreseen), engine.runner.vocab_size)
        scores[torch.arange(len(foreseen)), torch.tensor(foreseen)] = 10.0
        expected = scores.log_softmax(-1)[torch.arange(len(foreseen)), torch.tensor(PROMPT[1:])]
        got = torch.tensor([one.logprob for one in done.prompt_logprobs])
        torch.testing.assert_close(got, expected)


def test_others_in_the_batch_are_not_disturbed():
    with make(max_step_tokens=24, max_running=4) as engine:
        alone = engine.generate(prompt="hello", max_tokens=20, temperature=0).tokens
        streams = [engine.stream(prompt="hello", max_tokens=20, temperature=0) for _ in range(2)]
        ask(engine)
        assert [list(stream)[-1].tokens for stream in streams] == [alone, alone]


def test_what_repeats_without_end_and_what_does_not():
    passage = list(range(30))
    assert repeats(passage * 4)
    assert not repeats(passage * 3)
    assert repeats([1] * 96)
    assert not repeats([1] * 95)
    assert not repeats([*passage * 4, 99])
    assert not repeats([token for row in range(60) for token in (1, 2, row)])  # a table counts on


def test_a_thought_that_goes_round_in_circles_ends_and_an_answer_follows():
    thought = b"so it is as it is, "

    def script(context):
        text = bytes(token for token in context if token < 256)
        if 257 in context:  # the thought is over
            return b"Fine."[len(context) - context.index(257) - 1 - 2] if len(context) - context.index(257) < 8 else 256
        return thought[len(text) % len(thought)]

    with Engine(MockRunner(script), ByteTokenizer(), ByteTemplate(), model_name="m") as engine:
        done = engine.generate("Why?", thinking=True, max_thought_tokens=2000, max_tokens=2400, temperature=0)
        assert done.finished.usage.thought_tokens < 200
        assert done.content.strip() == "Fine."
        unbounded = engine.generate("Why?", thinking=True, max_tokens=400, temperature=0)
        assert unbounded.finished.usage.thought_tokens == 400
