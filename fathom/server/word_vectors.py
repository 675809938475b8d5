"""The word vectors that Search ranks with: of the default model's embeddings, made once on this machine and kept."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from fathom.search.vectors import WordVectors


def stored_word_vectors() -> "WordVectors | None":
    """What was made before, or None."""
    from fathom.checkpoints.sources import home
    from fathom.search.vectors import load_vectors

    return load_vectors(home() / "search" / "vectors")


def word_vectors() -> "WordVectors | None":
    """What was made before, else made now, which takes seconds; None where the default model is not installed."""
    return stored_word_vectors() or made_word_vectors()


def made_word_vectors() -> "WordVectors | None":
    """Make and keep them."""
    import torch

    from fathom.checkpoints import CheckpointError, open_checkpoint, resolve
    from fathom.checkpoints.sources import DEFAULT_REF, home
    from fathom.search.vectors import make_vectors
    from fathom.text import Tokenizer

    try:
        checkpoint = open_checkpoint(resolve(DEFAULT_REF))
    except CheckpointError:
        return None
    embeddings = checkpoint.tensor("model.embed_tokens.weight", torch.float32).numpy()
    tokenizer = Tokenizer.from_gguf(checkpoint.metadata)
    vectors = make_vectors(embeddings, map(tokenizer.token_bytes, range(len(embeddings))))
    vectors.save(home() / "search" / "vectors")
    return vectors
