"""A tiny chat model on disk: random Llama weights, a byte vocabulary with ChatML's tokens, conversations to learn."""

import json
from pathlib import Path

import tokenizers
import torch

from fathom.checkpoints import save_model
from fathom.models import ModelConfig
from fathom.models.transformer import Transformer

CONTROL = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")


def write_chat_model(folder: Path, seed: int = 0) -> Path:
    """config.json, weights and tokenizer of a model with 2 layers; returns the folder."""
    alphabet = sorted(tokenizers.pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {token: id for id, token in enumerate((*CONTROL, *alphabet))}
    tokenizer = tokenizers.Tokenizer(tokenizers.models.BPE(vocabulary, []))
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = tokenizers.decoders.ByteLevel()
    tokenizer.add_special_tokens(list(CONTROL))
    config = ModelConfig(
        architecture="llama",
        vocab_size=len(vocabulary),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=256,
        initializer_range=0.1,
        tie_word_embeddings=True,
        eos_token_id=2,
        torch_dtype="float32",
    )
    model = Transformer(config)
    model.initialise(torch.Generator().manual_seed(seed))
    save_model(model, folder)
    tokenizer.save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text(json.dumps({"eos_token": "<|im_end|>"}))
    return folder


def write_conversations(file: Path, count: int = 24) -> Path:
    """Sums with a worked thought; every third without one, every fourth in ShareGPT's form."""
    lines = []
    for number in range(count):
        question, answer = f"{number} + 1 =", f"The answer is {number + 1}."
        if number % 4 == 3:
            turns = [{"from": "human", "value": question}, {"from": "gpt", "value": answer}]
            lines.append(json.dumps({"conversations": turns}))
            continue
        turn = {"role": "assistant", "content": answer}
        if number % 3:
            turn["reasoning_content"] = f"{number} and 1 is {number + 1}"
        lines.append(json.dumps({"messages": [{"role": "user", "content": question}, turn]}))
    file.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return file
