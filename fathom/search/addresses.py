"""Which URLs may be opened: one parser, and a judgement of every address that a name stands for.

The rules answer the failures of other fetchers: two parsers that disagree (CVE-2026-45400), IPv4 addresses hidden in
IPv6 ones, redirects that are not checked (CVE-2026-45401), checks before instead of at the connection (CVE-2026-41488).
"""

import ipaddress
import re
from dataclasses import dataclass
from urllib.parse import quote, urlsplit

from fathom.search.errors import BlockedAddressError

PORTS = frozenset({80, 443, 8080, 8443})
MAX_URL_CHARACTERS = 2048
_FORBIDDEN = re.compile(r"[\x00-\x20\x7f\\]")
_NAME = re.compile(r"(?=.{1,253}$)[a-z0-9_]([a-z0-9_-]{0,61}[a-z0-9_])?(\.[a-z0-9_]([a-z0-9_-]{0,61}[a-z0-9_])?)*")
_NUMERIC_END = re.compile(r"(^|\.)(\d+|0x[0-9a-f]*)$")
_NAT64 = ipaddress.IPv6Network("64:ff9b::/96")
_COMPATIBLE = ipaddress.IPv6Network("::/96")
_ISATAP = frozenset({0x00005EFE, 0x02005EFE})

Address = ipaddress.IPv4Address | ipaddress.IPv6Address


@dataclass(frozen=True, slots=True)
class Target:
    """A URL taken apart once; everything after uses these parts and never parses the text again.

    `host` is ASCII (IDNA) and without brackets; `path` begins with a slash and holds the query.
    """

    scheme: str
    host: str
    port: int
    path: str

    @property
    def origin(self) -> str:
        """Scheme, host and port, as in `http://example.com:8080`; the port only where it is not the scheme's own."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{self.scheme}://{host}" + ("" if self.port == _default_port(self.scheme) else f":{self.port}")

    @property
    def url(self) -> str:
        """The URL in its one form."""
        return self.origin + self.path


def parse_url(url: str, *, any_port: bool = False) -> Target:
    """Take a URL apart. Raises BlockedAddressError for all that is not plain http(s) to a named or numbered host."""
    if len(url) > MAX_URL_CHARACTERS:
        raise BlockedAddressError(f"the URL is longer than {MAX_URL_CHARACTERS} characters")
    if _FORBIDDEN.search(url):
        raise BlockedAddressError(f"{url!r} holds a backslash, a space or a control character")
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError as error:
        raise BlockedAddressError(f"{url!r} is no URL: {error}") from error
    if parts.scheme not in ("http", "https"):
        raise BlockedAddressError(f"{url!r}: only http and https are opened")
    if "@" in parts.netloc:
        raise BlockedAddressError(f"{url!r} holds a user name or password")
    port = _default_port(parts.scheme) if port is None else port
    if not any_port and port not in PORTS:
        raise BlockedAddressError(f"{url!r}: port {port} is not one that web pages use ({sorted(PORTS)})")
    query = f"?{parts.query}" if parts.query else ""
    path = quote((parts.path or "/") + query, safe="/?:@!$&'()*+,;=%-._~[]|")
    return Target(parts.scheme, _host(parts.hostname or "", url), port, path)


def is_named(url: str, origins: frozenset[str]) -> bool:
    """Whether a URL lies on one of the origins that the user named, so that it may be opened wherever it is."""
    try:
        return bool(origins) and parse_url(url, any_port=True).origin in origins
    except BlockedAddressError:
        return False


def _default_port(scheme: str) -> int:
    return 443 if scheme == "https" else 80


def _host(host: str, url: str) -> str:
    if ":" in host:
        if "%" in host:
            raise BlockedAddressError(f"{url!r} names a network interface")
        try:
            return str(ipaddress.IPv6Address(host))
        except ValueError as error:
            raise BlockedAddressError(f"{url!r}: {host!r} is no IPv6 address") from error
    try:
        name = host if host.isascii() else host.encode("idna").decode("ascii")
    except UnicodeError as error:
        raise BlockedAddressError(f"{url!r}: {host!r} is no host name") from error
    name = name.lower().removesuffix(".")
    if not _NAME.fullmatch(name):
        raise BlockedAddressError(f"{url!r}: {host!r} is no host name")
    if _NUMERIC_END.search(name) and not _is_dotted_quad(name):
        raise BlockedAddressError(f"{url!r}: {host!r} is a disguised IPv4 address")
    return name


def _is_dotted_quad(name: str) -> bool:
    try:
        ipaddress.IPv4Address(name)
    except ValueError:
        return False
    return True


def embedded_addresses(address: Address) -> list[ipaddress.IPv4Address]:
    """The IPv4 addresses an IPv6 address leads to: mapped, compatible, NAT64 (RFC 6052), 6to4, Teredo, ISATAP."""
    if isinstance(address, ipaddress.IPv4Address):
        return []
    found = [address.ipv4_mapped, address.sixtofour, *(address.teredo or ())]
    number = int(address)
    last = ipaddress.IPv4Address(number & 0xFFFFFFFF)
    if address in _NAT64 or address in _COMPATIBLE or (number >> 32) & 0xFFFFFFFF in _ISATAP:
        found.append(last)
    return [one for one in found if one is not None]


def is_public(address: Address) -> bool:
    """Whether an address, and each address inside it, belongs to the public internet."""
    if isinstance(address, ipaddress.IPv6Address):
        if not all(is_public(one) for one in embedded_addresses(address)) or address.is_site_local:
            return False
        # Python counts these two as reserved; they are public as far as the address inside is.
        if address.ipv4_mapped is not None or address in _NAT64:
            return True
    return address.is_global and not address.is_multicast and not address.is_reserved


def judge(host: str, answers: list[str]) -> list[str]:
    """The addresses to dial, in order. Raises BlockedAddressError unless every answer for `host` is public."""
    for answer in answers:
        address = ipaddress.ip_address(answer)
        if (isinstance(address, ipaddress.IPv6Address) and address.scope_id) or not is_public(address):
            raise BlockedAddressError(f"{host} is {answer}, which is not an address of the public internet")
    return answers
