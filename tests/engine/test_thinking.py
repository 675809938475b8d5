"""An adapter that thinks for a base model: chosen for thoughts alone, with an answer after every thought."""

import pytest

import fathom
from fathom.checkpoints.adapters import write_adapter
from fathom.engine import Finished
from fathom.models.lora import fresh
from fathom.text import Answer, Thought


@pytest.fixture(scope="module")
def thinker(tmp_path_factory):
    """A folder with an adapter that changes nothing, for the default model."""
    from fathom.checkpoints import open_checkpoint, resolve
    from fathom.models.transformer import Transformer

    folder = tmp_path_factory.mktemp("thinker")
    model = Transformer(open_checkpoint(resolve("smollm2:135m")).config)
    write_adapter(folder, fresh(model, 2, 4, targets=["q_proj"]), base="smollm2:135m")
    return folder


@pytest.fixture
def engine(thinker, monkeypatch):
    monkeypatch.setenv("FATHOM_THINKER", str(thinker))
    with fathom.load("smollm2:135m", threads=1) as engine:
        yield engine


def test_thoughts_go_through_the_adapter_and_end_in_an_answer(engine):
    assert engine.template.thinks
    assert len(engine.adapters) == 1
    events = list(engine.stream("What is 2 + 2?", thinking=True, max_tokens=64, temperature=0.0))
    assert any(isinstance(event, Thought) for event in events)
    finished = events[-1]
    assert isinstance(finished, Finished)
    assert 0 < finished.usage.thought_tokens < 64  # an untrained thought never ends by itself; the budget ended it
    assert any(isinstance(event, Answer) for event in events)


def test_a_turn_that_would_end_within_its_thought_still_gets_an_answer(engine):
    end = engine.tokenizer.eos_id
    request = engine.request("Hi", thinking=True, max_tokens=40, temperature=0.0, logit_bias={end: 100.0})
    mailbox = []
    import threading

    done = threading.Event()

    def on_event(event):
        mailbox.append(event)
        if isinstance(event, Finished):
            done.set()

    engine.submit(request, on_event)
    assert done.wait(60)
    assert "</think>" in engine.tokenizer.decode(mailbox[-1].tokens)


def test_answers_without_a_thought_are_the_base_models(engine, monkeypatch):
    with_adapter = engine.generate("Say yes.", max_tokens=8, seed=1).tokens
    monkeypatch.setenv("FATHOM_THINKER", "off")
    with fathom.load("smollm2:135m", threads=1) as plain:
        assert not plain.template.thinks
        assert plain.generate("Say yes.", max_tokens=8, seed=1).tokens == with_adapter


def test_a_broken_adapter_costs_the_thoughts_and_not_the_model(tmp_path, monkeypatch, caplog):
    monkeypatch.setenv("FATHOM_THINKER", str(tmp_path))
    with fathom.load("smollm2:135m", threads=1) as engine:
        assert not engine.template.thinks
    assert "holds no adapter" in caplog.text


def test_the_released_adapter_is_small_and_fits_the_default_model(monkeypatch):
    from fathom.checkpoints import open_checkpoint, resolve
    from fathom.engine.thinking import find_thinker
    from fathom.models.lora import check_fit
    from fathom.models.transformer import Transformer

    monkeypatch.delenv("FATHOM_THINKER", raising=False)
    checkpoint = open_checkpoint(resolve("smollm2:135m"))
    thinker = find_thinker(checkpoint)
    assert thinker is not None
    check_fit(Transformer(checkpoint.config), thinker.stored.adapter)
    assert sum(file.stat().st_size for file in thinker.folder.iterdir()) < 25_000_000
    assert {"README.md", "DATA.md", "REPORT.md"} <= {file.name for file in thinker.folder.iterdir()}
