"""What a search may use: some engines only, some sites only, some sites not."""

from dataclasses import dataclass

from fathom.search.addresses import parse_url
from fathom.search.errors import BlockedAddressError

_SITES_IN_A_QUERY = 5


@dataclass(frozen=True, slots=True)
class Restriction:
    """Names of engines and of sites (`example.org` stands for its subdomains too); empty: all but what is blocked."""

    engines: frozenset[str] = frozenset()
    sites: frozenset[str] = frozenset()
    blocked_sites: frozenset[str] = frozenset()

    def admits_engine(self, name: str) -> bool:
        """Whether an engine is asked."""
        return not self.engines or name in self.engines

    def admits(self, url: str) -> bool:
        """Whether a source may be used. What is no page of a site (own files) is one only where no site is named."""
        try:
            host = parse_url(url, any_port=True).host
        except BlockedAddressError:
            return not self.sites
        return (not self.sites or _lies_in(host, self.sites)) and not _lies_in(host, self.blocked_sites)

    def query(self, query: str) -> str:
        """A query for an engine of the web, which looks for the named sites first; `admits` decides."""
        if not self.sites:
            return query
        named = sorted(self.sites)[:_SITES_IN_A_QUERY]
        return f"{query} " + " OR ".join(f"site:{site}" for site in named)


def _lies_in(host: str, sites: frozenset[str]) -> bool:
    return any(host == site or host.endswith(f".{site}") for site in sites)
