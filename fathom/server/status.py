"""What the server says about itself: /health, /models, /metrics."""

import time
from typing import Any

from fathom import __version__
from fathom.server.models import mode_of, names
from fathom.server.service import Service


def health(service: Service) -> tuple[int, dict[str, Any]]:
    """Status code and body: 200 only when answers can be had."""
    stage, fraction = service.stage
    body: dict[str, Any] = {"status": service.state, "model": service.model_name, "version": __version__}
    if service.state == "loading":
        body["progress"] = {"stage": stage, "fraction": fraction, "seconds": round(time.monotonic() - service.began, 1)}
    if service.state == "failed":
        body["error"] = service.failure
    if service.engine is None:
        return 503, body
    stats = service.engine.stats()
    load = stats.load
    body["context"] = stats.max_tokens
    body["thinks"] = service.engine.template.thinks
    body["queue"] = {"running": load.running, "waiting": load.waiting, "waiting_tokens": load.waiting_tokens}
    body["cache"] = {
        "pages": load.pages,
        "pages_held": load.pages_held,
        "pages_cached": load.pages_cached,
        "page_tokens": stats.page_tokens,
        "bytes": load.pages * stats.bytes_per_page,
    }
    body["policy"] = dict(stats.policy)
    if not load.healthy:
        return 503, {**body, "status": "failed", "error": load.failure}
    return (200 if service.state == "ready" else 503), body


def model_list(service: Service) -> dict[str, Any]:
    """OpenAI's list of models."""
    return {"object": "list", "data": [model_entry(service, name) for name in names(service.model_name)]}


def model_entry(service: Service, name: str) -> dict[str, Any]:
    """One model; `root` says what an alias stands for, as in vLLM, and `context_length` what it can read."""
    mode_of(name, service.model_name)
    entry = {
        "id": name,
        "object": "model",
        "created": service.created,
        "owned_by": "fathom",
        "root": service.model_name,
    }
    if service.engine is None:
        return entry
    return {**entry, "context_length": service.engine.max_tokens, "thinks": service.engine.template.thinks}


def metrics_text(service: Service) -> str:
    """The page of /metrics: our counters and the engine's gauges."""
    if service.engine is None:
        return service.metrics.text({"up": ("1 when answers can be had.", 0)})
    load = service.engine.stats().load
    return service.metrics.text(
        {
            "up": ("1 when answers can be had.", service.state == "ready" and load.healthy),
            "num_requests_running": ("Sequences in the batch.", load.running),
            "num_requests_waiting": ("Requests in the queue.", load.waiting),
            "kv_cache_usage_perc": ("Pages held by sequences, 0 to 1.", load.pages_held / load.pages),
            "kv_cache_prefix_perc": ("Pages that serve as prefix cache only, 0 to 1.", load.pages_cached / load.pages),
            "num_preemptions": ("Sequences that lost their pages for a while.", load.preemptions),
            "engine_steps": ("Steps of the model.", load.counts.steps),
            "engine_step_seconds": ("Time inside the model.", load.counts.step_seconds),
        },
        {
            "prefix_cache_disk_pages_total": ("Pages of prefixes brought back from disk.", load.counts.pages_from_disk),
            "spec_decode_num_drafts_total": ("Drafts verified.", load.counts.drafts),
            "spec_decode_num_draft_tokens_total": ("Tokens guessed ahead.", load.counts.drafted_tokens),
            "spec_decode_num_accepted_tokens_total": ("Guessed tokens that were right.", load.counts.accepted_tokens),
        },
    )
