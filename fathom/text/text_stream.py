"""Text from a stream of token ids, never half a character."""

import codecs

from fathom.text.tokenizer import Tokenizer


class TextStream:
    """Turns ids into text as they come. Pushed and flushed text joined equals `Tokenizer.decode` of all ids.

    A token may end inside a character (a byte-level vocabulary cuts Chinese and emoji that way); its bytes wait for the
    rest of the character. What is still incomplete at the end comes out as U+FFFD.
    """

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")

    def push(self, id: int) -> str:
        """The text that this token completes; often empty inside a character."""
        return self._decoder.decode(self._tokenizer.token_bytes(id))

    def flush(self) -> str:
        """What waits for bytes that do not come, as U+FFFD; the stream can then be used again."""
        text = self._decoder.decode(b"", final=True)
        self._decoder.reset()
        return text
