"""From the bytes of a response to text, with a limit on what they may unfold to."""

import re
import zlib

from fathom.search.errors import FetchError

# Labels pages use, and the codec that browsers take for them (WHATWG Encoding Standard, section 4.2).
_CODECS = {
    "utf8": "utf-8", "ascii": "cp1252", "us-ascii": "cp1252", "latin1": "cp1252", "iso-8859-1": "cp1252",
    "gb2312": "gb18030", "gbk": "gb18030", "gb18030": "gb18030", "x-gbk": "gb18030", "big5": "big5hkscs",
    "big5-hkscs": "big5hkscs", "shift_jis": "cp932", "shift-jis": "cp932", "x-sjis": "cp932", "euc-jp": "euc_jp",
    "iso-2022-jp": "iso2022_jp", "euc-kr": "cp949", "ks_c_5601-1987": "cp949", "koi8-r": "koi8_r", "koi8-u": "koi8_u",
    "utf-16": "utf-16-le", "utf-16le": "utf-16-le", "utf-16be": "utf-16-be", "iso-8859-9": "cp1254",
}  # fmt: skip
_SAME_NAME = re.compile(r"utf-8|windows-125[0-8]|windows-874|iso-8859-([2-8]|1[03-6])")
_META = re.compile(rb"""<meta[^>]{0,200}?charset\s*=\s*["']?\s*([A-Za-z0-9_:.-]{2,40})""", re.IGNORECASE)
_BOMS = ((b"\xef\xbb\xbf", "utf-8"), (b"\xff\xfe", "utf-16-le"), (b"\xfe\xff", "utf-16-be"))


class Inflater:
    """Undoes `Content-Encoding`; never holds more than `limit` bytes, however much a bomb would unfold to."""

    def __init__(self, encoding: str, limit: int) -> None:
        encoding = encoding.strip().lower()
        if encoding not in ("", "identity", "gzip", "x-gzip", "deflate"):
            raise FetchError(f"the page comes as {encoding!r}, which was not asked for")
        self._plain = encoding in ("", "identity")
        # 47: gzip and zlib headers are both recognised.
        self._inflate = zlib.decompressobj(47)
        self._limit = limit
        self._data = bytearray()
        self.truncated = False

    def push(self, chunk: bytes) -> bool:
        """Take a chunk; False when the limit is reached and no more is wanted. Raises FetchError for broken data."""
        room = self._limit - len(self._data)
        if self._plain:
            self._data += chunk[:room]
            self.truncated = len(chunk) > room
            return not self.truncated
        try:
            # One byte over the limit tells that there was more.
            unfolded = self._inflate.decompress(chunk, room + 1)
        except zlib.error as error:
            raise FetchError(f"the page's compression is broken: {error}") from error
        self._data += unfolded[:room]
        self.truncated = len(unfolded) > room
        return not self.truncated

    @property
    def data(self) -> bytes:
        """All that came so far."""
        return bytes(self._data)


def decode_text(data: bytes, charset: str | None) -> str:
    """Text of a page: byte order mark, then the header's charset, then the page's own, then UTF-8, as browsers do."""
    for mark, codec in _BOMS:
        if data.startswith(mark):
            return data[len(mark) :].decode(codec, errors="replace")
    codec = codec_of(charset) or codec_of(_stated(data)) or "utf-8"
    return data.decode(codec, errors="replace")


def codec_of(label: str | None) -> str | None:
    """Python's codec for a charset label, None for one no browser knows."""
    label = (label or "").strip().strip("\"'").lower()
    return label if _SAME_NAME.fullmatch(label) else _CODECS.get(label)


def _stated(data: bytes) -> str | None:
    match = _META.search(data[:4096])
    stated = match[1].decode("ascii") if match else None
    # A page that could be read this far as ASCII is not UTF-16, whatever it says.
    return "utf-8" if stated and stated.lower().startswith("utf-16") else stated
