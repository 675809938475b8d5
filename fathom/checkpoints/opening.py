"""`open_checkpoint`: from a path to a Checkpoint; pickles are refused by name."""

from pathlib import Path

from fathom.checkpoints.checkpoint import Checkpoint, check_finite
from fathom.checkpoints.errors import CheckpointError, PickleRefusedError, SourceError
from fathom.checkpoints.gguf_checkpoint import SPLIT_NAME, GGUFCheckpoint
from fathom.checkpoints.safetensors_checkpoint import SafetensorsCheckpoint

PICKLE_SUFFIXES = frozenset({".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle", ".joblib", ".npy", ".npz"})


def open_checkpoint(path: Path | str, *, check: bool = False) -> Checkpoint:
    """Open a folder in Hugging Face layout, a .safetensors file (config.json beside it), or a .gguf file.

    Only headers are read; tensors are views of the mapped files. With `check`, every weight is read once and NaN or
    infinity refused.

    Raises:
        CheckpointError: one subclass for each kind of trouble, see `fathom.checkpoints.errors`.

    """
    path = Path(path)
    if not path.exists():
        raise SourceError(f"{path} does not exist")
    checkpoint = _open_folder(path) if path.is_dir() else _open_file(path)
    if check:
        check_finite(checkpoint)
    return checkpoint


def _open_file(path: Path) -> Checkpoint:
    if path.suffix == ".gguf":
        return GGUFCheckpoint(path)
    if path.suffix == ".safetensors":
        return SafetensorsCheckpoint(path)
    if path.suffix in PICKLE_SUFFIXES:
        raise _refusal(path, [path.name])
    raise CheckpointError(f"{path} is neither a folder nor a .safetensors or .gguf file")


def _open_folder(path: Path) -> Checkpoint:
    if any(path.glob("*.safetensors")) or (path / "model.safetensors.index.json").is_file():
        return SafetensorsCheckpoint(path)
    ggufs = sorted(path.glob("*.gguf"))
    firsts = [file for file in ggufs if (match := SPLIT_NAME.fullmatch(file.name)) is None or int(match["number"]) == 1]
    if len(firsts) == 1:
        return GGUFCheckpoint(firsts[0])
    if firsts:
        raise CheckpointError(f"{path} holds several models: name one of {', '.join(file.name for file in firsts)}")
    pickles = sorted(file.name for file in path.iterdir() if file.suffix in PICKLE_SUFFIXES)
    if pickles:
        raise _refusal(path, pickles)
    raise SourceError(f"{path} holds no .safetensors and no .gguf file")


def _refusal(path: Path, names: list[str]) -> PickleRefusedError:
    return PickleRefusedError(
        f"{path}: {', '.join(names[:4])} would have to be unpickled, and that runs whatever code is inside. "
        "Take the repository's .safetensors or .gguf files instead; if there are none and you trust the author, "
        "convert them on a machine you can lose: transformers' AutoModelForCausalLM.from_pretrained(...) and "
        "save_pretrained(...) write safetensors"
    )
