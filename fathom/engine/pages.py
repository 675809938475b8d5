"""Pages of cache: who holds which, and which can be shared. Only page numbers; the runner owns the storage.

A full page is known by the hash of all tokens up to its end (a chain over the pages before it), so an equal hash means
an equal prefix and therefore equal entries. A published page is full and never written again, which is what makes
sharing it safe. Pages that nobody holds but that are published stay findable until their room is needed; the least
recently used go first (the prefix cache).
"""

import hashlib
from array import array
from collections import OrderedDict
from collections.abc import Callable, Iterable, Sequence

from fathom.models.config import ModelConfig

PAGE_TOKENS = 64
Digest = bytes


def bytes_per_page(config: ModelConfig, element_bytes: int, page_tokens: int = PAGE_TOKENS) -> int:
    """Bytes of cache that one page of all layers takes, those of the prediction modules among them."""
    return config.num_cache_layers * config.cache_width * element_bytes * page_tokens


def chain_digest(parent: Digest, tokens: Sequence[int]) -> Digest:
    """Digest of a prefix: that of the prefix before its last page, then the page's token ids (BLAKE2b, 128 bit)."""
    return hashlib.blake2b(array("q", tokens).tobytes(), digest_size=16, key=parent).digest()


def root_digest(salt: str | None) -> Digest:
    """Where a chain starts. Prefixes with different salts (users, tenants) are never shared."""
    return hashlib.blake2b((salt or "").encode(), digest_size=16, person=b"fathom-prefix").digest()


class NoPagesError(Exception):
    """Every page is held by a running sequence; the scheduler preempts one or waits."""


class PagePool:
    """Reference counts of `n_pages` pages, the free ones, and the published ones by digest."""

    def __init__(self, n_pages: int) -> None:
        if n_pages < 1:
            raise ValueError(f"a cache needs at least 1 page, not {n_pages}; give the cache more memory")
        self.n_pages = n_pages
        self.on_publish: Callable[[int, Digest, int], None] | None = None  # told page, digest, index in its prefix
        self._allocations = [0] * n_pages
        self._holders = [0] * n_pages
        self._digest_of: list[Digest | None] = [None] * n_pages
        self._page_of: dict[Digest, int] = {}
        self._free = list(range(n_pages - 1, -1, -1))  # used from the end: recently freed pages are warm in memory
        self._idle: OrderedDict[int, None] = OrderedDict()  # published, held by nobody; least recently used first

    @property
    def available(self) -> int:
        """Pages that can be allocated now: free ones and published ones that nobody holds."""
        return len(self._free) + len(self._idle)

    @property
    def cached(self) -> int:
        """Published pages that nobody holds: the prefix cache's share of the memory."""
        return len(self._idle)

    @property
    def held(self) -> int:
        """Pages that at least one sequence holds."""
        return self.n_pages - self.available

    def allocate(self) -> int:
        """A page to write to, held once. Takes a free one, else forgets the least recently used published one."""
        if self._free:
            page = self._free.pop()
        elif self._idle:
            page, _ = self._idle.popitem(last=False)
            self._forget(page)
        else:
            raise NoPagesError
        self._holders[page] = 1
        self._allocations[page] += 1
        return page

    def publish(self, page: int, digest: Digest) -> bool:
        """Let others find a full page. The first with a digest wins; a second one of the same prefix stays private."""
        if digest in self._page_of or self._digest_of[page] is not None:
            return False
        self._page_of[digest] = page
        self._digest_of[page] = digest
        return True

    def publication(self, digest: Digest, page: int) -> int | None:
        """A number that is the same as long as `page` stays published under `digest`; None when it is not."""
        return self._allocations[page] if self._page_of.get(digest) == page else None

    def has(self, digest: Digest) -> bool:
        """Whether a page is published under a digest."""
        return digest in self._page_of

    def share(self, digest: Digest) -> int | None:
        """The published page of a prefix, held once more; None if there is none."""
        page = self._page_of.get(digest)
        if page is None:
            return None
        if self._holders[page] == 0:
            del self._idle[page]
        self._holders[page] += 1
        return page

    def release(self, page: int) -> None:
        """Give back one hold; at the last one the page becomes free, or idle if it was published."""
        if self._holders[page] < 1:
            raise AssertionError(f"page {page} was released more often than it was held")
        self._holders[page] -= 1
        if self._holders[page]:
            return
        if self._digest_of[page] is None:
            self._free.append(page)
        else:
            self._idle[page] = None

    def clear_cache(self) -> None:
        """Forget every published page; those that nobody holds become free."""
        for page in list(self._page_of.values()):
            self._forget(page)
        self._free.extend(self._idle)
        self._idle.clear()

    def check(self, tables: Iterable[Sequence[int]]) -> None:
        """Raise AssertionError unless the counts are exactly what the given page lists hold."""
        holders = [0] * self.n_pages
        for pages in tables:
            for page in pages:
                holders[page] += 1
        if holders != self._holders:
            raise AssertionError(f"pages are held {self._holders} times but tables name them {holders} times")
        unheld = {page for page, count in enumerate(holders) if count == 0}
        if len(self._free) + len(self._idle) != len(unheld) or set(self._free) | set(self._idle) != unheld:
            raise AssertionError("free and idle pages are not exactly the pages that nobody holds")
        if any(self._digest_of[page] is None for page in self._idle) or any(self._digest_of[p] for p in self._free):
            raise AssertionError("an idle page is not published, or a free one is")
        if {page: digest for digest, page in self._page_of.items()} != {
            page: digest for page, digest in enumerate(self._digest_of) if digest is not None
        }:
            raise AssertionError("the two directions of the digest table differ")

    def _forget(self, page: int) -> None:
        digest = self._digest_of[page]
        if digest is not None:
            del self._page_of[digest]
            self._digest_of[page] = None


class PageTable:
    """The pages of one sequence, in order, and the digests of its full pages."""

    def __init__(self, pool: PagePool, *, page_tokens: int = PAGE_TOKENS, salt: str | None = None) -> None:
        self.pages: list[int] = []
        self._pool = pool
        self._page_tokens = page_tokens
        self._digests: list[Digest] = [root_digest(salt)]  # [i]: digest of the first i pages; tokens only ever grow
        self._published = 0

    def reuse(self, tokens: Sequence[int]) -> int:
        """Take the published pages of the longest known prefix; returns its tokens.

        The last token is never among them: it has to be computed for its logits. Call on an empty table only.
        """
        for index in range((len(tokens) - 1) // self._page_tokens):
            page = self._pool.share(self._digest(tokens, index + 1))
            if page is None:
                break
            self.pages.append(page)
        self._published = len(self.pages)
        return len(self.pages) * self._page_tokens

    def prefix(self, tokens: Sequence[int]) -> tuple[list[Digest], int]:
        """The digests of all pages that `reuse` could take, and how many of them it would find now."""
        digests = [self._digest(tokens, index + 1) for index in range((len(tokens) - 1) // self._page_tokens)]
        known = next((index for index, digest in enumerate(digests) if not self._pool.has(digest)), len(digests))
        return digests, known

    def missing(self, n_tokens: int) -> int:
        """Pages still to be allocated before `n_tokens` tokens have room."""
        return max(0, -(-n_tokens // self._page_tokens) - len(self.pages))

    def grow(self, n_tokens: int) -> bool:
        """Make room for `n_tokens` tokens; False, and nothing taken, when there are not enough pages."""
        missing = self.missing(n_tokens)
        if missing > self._pool.available:
            return False
        for _ in range(missing):
            self.pages.append(self._pool.allocate())
        return True

    def publish(self, tokens: Sequence[int], computed: int) -> None:
        """Publish the pages that the first `computed` tokens fill."""
        for index in range(self._published, computed // self._page_tokens):
            page, digest = self.pages[index], self._digest(tokens, index + 1)
            if self._pool.publish(page, digest) and self._pool.on_publish is not None:
                self._pool.on_publish(page, digest, index)
            self._published = index + 1

    def release(self) -> None:
        """Give all pages back, the last first, so that the beginnings of prefixes stay cached longest."""
        for page in reversed(self.pages):
            self._pool.release(page)
        self.pages = []
        self._published = 0

    def _digest(self, tokens: Sequence[int], n_pages: int) -> Digest:
        while len(self._digests) <= n_pages:
            start = (len(self._digests) - 1) * self._page_tokens
            self._digests.append(chain_digest(self._digests[-1], tokens[start : start + self._page_tokens]))
        return self._digests[n_pages]
