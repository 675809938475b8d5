import importlib.util
import json
import math
from pathlib import Path

import pytest
import torch

from fathom.checkpoints import load_model, open_checkpoint
from fathom.checkpoints.adapters import write_adapter
from fathom.evals.perplexity import perplexity
from fathom.models.cache import NoCache
from fathom.models.lora import Adapter, fresh
from fathom.text import Message, Tokenizer, chat_template

_spec = importlib.util.spec_from_file_location("chat_model", Path(__file__).parents[1] / "training" / "chat_model.py")
chat_model = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(chat_model)


def test_it_is_exp_of_the_mean_over_the_answers_tokens_and_moves_with_an_adapter(tmp_path):
    folder = chat_model.write_chat_model(tmp_path / "model")
    file = tmp_path / "chats.jsonl"
    turn = {"role": "assistant", "content": "Well.", "reasoning_content": "not counted"}
    file.write_text(json.dumps({"messages": [{"role": "user", "content": "How?"}, turn]}))
    tokenizer = Tokenizer.from_folder(folder)
    prompt = chat_template(tokenizer).render([Message("user", "How?")]).ids
    answer = [*tokenizer.encode("Well."), tokenizer.eos_id]
    model = load_model(open_checkpoint(folder), dtype=torch.float32)
    tokens = torch.tensor([*prompt, *answer])
    logits = model.logits(model(tokens, torch.arange(len(tokens)), NoCache(1, len(tokens))))
    logp = logits.log_softmax(-1)[len(prompt) - 1 : -1].gather(1, torch.tensor(answer)[:, None])
    plain = perplexity(folder, file)
    assert plain == pytest.approx(math.exp(-float(logp.mean())), rel=0.02)  # it computes in bfloat16
    adapter = fresh(model, 2, 4, generator=torch.Generator().manual_seed(0))
    pairs = {name: (a, torch.ones_like(b)) for name, (a, b) in adapter.pairs.items()}
    write_adapter(tmp_path / "adapter", Adapter(adapter.scale, pairs), base="model")
    assert perplexity(folder, file, adapter=tmp_path / "adapter") != pytest.approx(plain, rel=1e-3)
