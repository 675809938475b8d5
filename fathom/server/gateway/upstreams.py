"""The servers behind a gateway: which there are, which are well, and which one gets a request."""

import asyncio
import hashlib
import logging
import math
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import httpx

log = logging.getLogger("fathom.server")

CHECK_SECONDS = 5.0
REST_SECONDS = 10.0  # for an upstream that failed a request, unless a check finds it well before
CROWDED = 1.25  # times its fair share of what is under way: then a prefix's own upstream is passed over


@dataclass(slots=True, eq=False)
class Upstream:
    """One OpenAI-compatible server.

    Attributes:
        url: its base, such as http://10.0.0.2:8000/v1.
        weight: how much of the work it gets, against the others; 0 drains it.
        model: what its model is called there; the first of its list, unless given.
        owner: `owned_by` of that model, which tells what kind of server it is.
        running: requests under way there.
        rests_until: when it may be asked again after a failure (monotonic).

    """

    url: str
    weight: float = 1.0
    model: str | None = None
    owner: str = ""
    context: int | None = None
    thinks: bool = True
    running: int = 0
    well: bool = False
    rests_until: float = 0.0
    trouble: str = "not asked yet"
    served: dict[str, int] = field(default_factory=lambda: {"finished": 0, "failed": 0})

    @property
    def takes_requests(self) -> bool:
        """Whether it may be asked now."""
        return self.well and self.weight > 0 and time.monotonic() >= self.rests_until

    def failed(self, why: str) -> None:
        """Note that a request could not be answered there."""
        self.served["failed"] += 1
        self.rests_until = time.monotonic() + REST_SECONDS
        self.trouble = why
        log.warning("upstream %s failed: %s", self.url, why)


def parse(text: str) -> Upstream:
    """An upstream from URL[;weight=W][;model=NAME]. Raises ValueError."""
    url, *options = text.strip().split(";")
    if not url.startswith(("http://", "https://")):
        raise ValueError(f"an upstream is a URL such as http://10.0.0.2:8000/v1, not {url!r}")
    upstream = Upstream(url.rstrip("/"))
    for option in options:
        name, _, value = option.partition("=")
        if name == "weight":
            upstream.weight = float(value)
        elif name == "model" and value:
            upstream.model = value
        else:
            raise ValueError(f"an upstream takes weight=W and model=NAME, not {option!r}")
    if not (math.isfinite(upstream.weight) and upstream.weight >= 0):
        raise ValueError(f"the weight of {upstream.url} must be 0 or more")
    return upstream


def route(upstreams: Sequence[Upstream], prefix: str) -> list[Upstream]:
    """The upstreams that may be asked, the best first.

    Requests with the same beginning go to the same server, whose cache then holds it: weighted rendezvous hashing, so
    that a server which comes or goes moves only its own share. One that is crowded is passed over.
    """
    able = [upstream for upstream in upstreams if upstream.takes_requests]
    if not able:
        return []
    ranked = sorted(able, key=lambda upstream: _score(upstream, prefix), reverse=True)
    running = sum(upstream.running for upstream in able) + 1
    weights = sum(upstream.weight for upstream in able)

    def crowded(upstream: Upstream) -> bool:
        share = running * upstream.weight / weights
        return upstream.running + 1 > max(CROWDED * share, 1)

    return sorted(ranked, key=crowded)  # stable: the ranking holds within both halves


def _score(upstream: Upstream, prefix: str) -> float:
    """https://en.wikipedia.org/wiki/Rendezvous_hashing: -weight / ln(uniform hash)."""
    digest = hashlib.blake2b(f"{upstream.url}\0{prefix}".encode("utf-8", "replace"), digest_size=8).digest()
    uniform = (int.from_bytes(digest) + 0.5) / 2**64
    return -upstream.weight / math.log(uniform)


async def check(client: httpx.AsyncClient, upstream: Upstream) -> None:
    """Ask an upstream how it is, and what it serves."""
    try:
        models = await client.get(f"{upstream.url}/models", timeout=CHECK_SECONDS)
        models.raise_for_status()
        _learn(upstream, models.json())
        health = await client.get(httpx.URL(upstream.url).join("/health"), timeout=CHECK_SECONDS)
        if health.status_code == 503:  # vLLM, SGLang, llama.cpp and Fathom say so; others have no such page
            raise ValueError("it says that it is not ready")
    except (httpx.HTTPError, ValueError, KeyError, TypeError, IndexError) as error:
        if upstream.well:
            log.warning("upstream %s is not well: %s", upstream.url, error)
        upstream.well, upstream.trouble = False, f"{type(error).__name__}: {error}"
    else:
        if not upstream.well:
            log.info("upstream %s is well: %s", upstream.url, upstream.model)
        upstream.well, upstream.rests_until, upstream.trouble = True, 0.0, ""


async def check_all(client: httpx.AsyncClient, upstreams: Sequence[Upstream]) -> None:
    """Ask all of them, at the same time."""
    await asyncio.gather(*(check(client, upstream) for upstream in upstreams))


def _learn(upstream: Upstream, listed: dict[str, Any]) -> None:
    entries = [entry for entry in listed["data"] if upstream.model in (None, entry["id"])]
    if not entries:
        raise ValueError(f"it has no model {upstream.model!r}")
    entry = entries[0]
    upstream.model, upstream.owner = str(entry["id"]), str(entry.get("owned_by", ""))
    # Fathom's name for it, vLLM's, llama.cpp's.
    stated = entry.get("context_length") or entry.get("max_model_len") or (entry.get("meta") or {}).get("n_ctx_train")
    upstream.context = stated if isinstance(stated, int) else None
    upstream.thinks = bool(entry.get("thinks", True))
