"""The models that `compare.py` runs, each in the formats that its contenders want, made once into a folder.

smollm2      the embedded model, as shipped (Q4_1), and requantised by our exporter to Q8_0 and BF16
v3-shaped    random weights in DeepSeek V3's architecture, BF16, and the same in Q8_0: what is measured is speed alone
"""

import sys
from collections.abc import Callable
from pathlib import Path


def files_of(model: str, folder: Path) -> dict[str, Path]:
    """Format to file; "own" is the format that the model is shipped in."""
    if model.endswith(".gguf"):
        return {"own": Path(model)}
    own = _smollm2() if model == "smollm2" else _v3_shaped(folder)
    formats = ("q8_0", "bf16") if model == "smollm2" else ("q8_0",)
    return {"own": own} | {
        name: _made(folder / f"{model}-{name}.gguf", lambda file, to=name: _requantise(own, file, to))
        for name in formats
    }


def _smollm2() -> Path:
    from fathom.checkpoints import resolve

    return resolve("smollm2:135m")


def _v3_shaped(folder: Path) -> Path:
    return _made(folder / "v3-shaped-own.gguf", _write_v3_shaped)


def _write_v3_shaped(file: Path) -> None:
    """Hidden 512, 12 layers, 16 routed experts and a shared one, 4 active, latent rank 128; the embedded tokenizer."""
    import torch

    from fathom.checkpoints import open_checkpoint, save_model
    from fathom.checkpoints.gguf_export import model_metadata, planned_tensors, tokenizer_metadata, write_gguf
    from fathom.models import ModelConfig
    from fathom.models.transformer import Transformer

    config = ModelConfig(
        architecture="deepseek_v3",
        vocab_size=49152,
        hidden_size=512,
        intermediate_size=1536,
        num_hidden_layers=12,
        num_attention_heads=8,
        num_key_value_heads=8,
        head_dim=0,
        max_position_embeddings=8192,
        tie_word_embeddings=False,
        q_lora_rank=192,
        kv_lora_rank=128,
        qk_nope_head_dim=64,
        qk_rope_head_dim=32,
        v_head_dim=64,
        moe_intermediate_size=320,
        n_routed_experts=16,
        n_shared_experts=1,
        num_experts_per_tok=4,
        first_k_dense_replace=1,
        topk_method="noaux_tc",
        scoring_func="sigmoid",
        norm_topk_prob=True,
        routed_scaling_factor=2.5,
    )
    model = Transformer(config)
    model.initialise(torch.Generator().manual_seed(0))
    plain = file.with_suffix(".safetensors.folder")
    save_model(model.to(torch.bfloat16), plain)
    checkpoint = open_checkpoint(plain)
    tokenizer = tokenizer_metadata(open_checkpoint(_smollm2()))
    names = {"general.name": "v3-shaped, random", "general.file_type": 32}
    write_gguf(file, names | model_metadata(config) | tokenizer, planned_tensors(checkpoint, "bf16"))


def _requantise(own: Path, file: Path, dtype: str) -> None:
    from fathom.checkpoints.gguf_export import export_gguf

    export_gguf(own, file, dtype=dtype)  # type: ignore[arg-type]


def _made(file: Path, make: Callable[[Path], None]) -> Path:
    if not file.exists():
        print(f"making {file.name} …", file=sys.stderr, flush=True)
        file.parent.mkdir(parents=True, exist_ok=True)
        make(file)
    return file
