"""Which engines of the web a person has set up; without any, nothing leaves the machine."""

from dataclasses import dataclass

from fathom.search.engines import BingEngine, BraveEngine, DdgsEngine, SearchEngine, SearxngEngine, TavilyEngine


@dataclass(frozen=True, slots=True)
class EngineSettings:
    """Addresses and keys of engines; None: not used.

    `private_origins` are sites of this machine or network that a result may lead to (`http://wiki.home:8080`).
    """

    searxng_url: str | None = None
    brave_key: str | None = None
    tavily_key: str | None = None
    bing_key: str | None = None
    bing_url: str = "https://api.bing.microsoft.com"
    use_ddgs: bool = False
    private_origins: frozenset[str] = frozenset()


def web_engines(settings: EngineSettings) -> list[SearchEngine]:
    """Every engine of the web that the settings name."""
    found: list[SearchEngine] = []
    if settings.searxng_url:
        found.append(SearxngEngine(settings.searxng_url, settings.private_origins))
    if settings.brave_key:
        found.append(BraveEngine(settings.brave_key))
    if settings.tavily_key:
        found.append(TavilyEngine(settings.tavily_key))
    if settings.bing_key:
        found.append(BingEngine(settings.bing_key, settings.bing_url))
    if settings.use_ddgs:
        found.append(DdgsEngine())
    return found
