"""`fathom bench`: the promised keys, on the default model."""

import json

import pytest

from fathom.cli.measuring import Load, Measured


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        ("decode", ["--sequences", "2"]),
        pytest.param("prefill", ["--prompt", "40"], marks=pytest.mark.slow),
        pytest.param("serve", ["--sequences", "3"], marks=pytest.mark.slow),
    ],
)
def test_each_kind_reports_the_promised_keys(smollm2_gguf, fathom, kind, options):
    tokens = [] if kind == "prefill" else ["--tokens", "4"]
    done = fathom("bench", kind, *options, *tokens, "--rounds", "1", "--json")
    assert done.returncode == 0, done.stderr
    facts = json.loads(done.stdout)
    assert facts["tokens_per_second"] > 0
    assert facts["peak_memory_bytes"] > 2**26
    assert facts["device"] == "cpu"
    assert facts["dtype"]
    assert facts["kind"] == kind
    assert (facts["drafted_tokens"], facts["accepted_tokens"]) == (0, 0)  # the model's own speed
    assert "round 1" in done.stderr


def test_what_cannot_be_measured_is_refused(smollm2_gguf, fathom):
    assert fathom("bench", "decode", "--sequences", "0").returncode == 2
    done = fathom("bench", "prefill", "--prompt", "9000000")
    assert done.returncode == 2
    assert "--prompt" in done.stderr


def test_rates_count_what_they_say():
    measured = Measured(Load(2, 10, 5), firsts=[1.0, 2.0], ends=[3.0, 4.0])
    assert measured.rate("decode") == pytest.approx(2 * 4 / 2.0)
    assert measured.rate("prefill") == pytest.approx(2 * 10 / 2.0)
    assert measured.rate("serve") == pytest.approx(2 * 15 / 4.0)
    assert measured.first_token_seconds == 1.0


@pytest.mark.slow
def test_training_steps(fathom):
    done = fathom("bench", "train", "--threads", "1", "--json")
    assert done.returncode == 0, done.stderr
    facts = json.loads(done.stdout)
    assert facts["tokens_per_second"] > 0
    assert facts["peak_memory_bytes"] > 2**26
    assert (facts["kind"], facts["device"], facts["threads"]) == ("train", "cpu", 1)
