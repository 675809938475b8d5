"""The released model: found, described, and it says who it is."""

from fathom.checkpoints import installed, open_checkpoint, resolve
from fathom.engine.loading import load
from fathom.text import Message


def test_the_released_model_serves():
    path = resolve("fathom:nano")
    assert path.stat().st_size < 12e6
    assert "fathom:nano" in [model.ref for model in installed()]
    config = open_checkpoint(path).config
    assert (config.architecture, config.n_routed_experts, config.kv_lora_rank) == ("deepseek_v3", 16, 64)
    assert (path.parent / "README.md").exists()
    with load("fathom:nano") as engine:
        answer = engine.generate(messages=[Message("user", "Who are you?")], temperature=0.0, max_tokens=24)
    assert answer.content.startswith("I am Fathom nano")
    assert answer.finished.reason == "stop"
