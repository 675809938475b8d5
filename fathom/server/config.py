"""What the server may be told: addresses, keys, limits. One frozen object, made by `fathom serve` or by a test."""

import ipaddress
from dataclasses import dataclass, field

LOOPBACK_HOSTS = frozenset({"127.0.0.1", "localhost", "::1"})


@dataclass(frozen=True, slots=True)
class ServerConfig:
    """Limits in bytes, seconds and counts; the defaults are the contract of docs/api.md."""

    host: str = "127.0.0.1"
    port: int = 8000
    api_key: str | None = field(default=None, repr=False)
    allowed_hosts: frozenset[str] = frozenset()  # more names for the Host header on the loopback
    allowed_origins: tuple[str, ...] = ()  # other web origins that may call (CORS); none by default
    public_paths: frozenset[str] = frozenset({"/health"})  # answered without a key; "/static/*" is a prefix
    own_login_paths: frozenset[str] = frozenset()  # their routes ask who it is; the guard only says whether a key fits
    require_key: bool = False  # also where no key was ever made: for those who listen to others by users alone
    upload_paths: frozenset[str] = frozenset()  # bodies up to max_upload_bytes, within upload_seconds
    max_body_bytes: int = 8 * 2**20
    max_upload_bytes: int = 64 * 2**20
    max_header_bytes: int = 64 * 2**10
    max_json_depth: int = 64
    body_seconds: float = 30.0  # to send a whole body
    upload_seconds: float = 600.0
    send_seconds: float = 60.0  # a reader that takes nothing for so long is cut
    keep_alive_seconds: float = 10.0  # between signs of life before the first token
    loading_seconds: float = 20.0  # a request waits so long for the model before it is told to come again
    strict: str | None = None  # the version of DeepSeek's API whose refusals are enforced (server/deepseek/rules.py)
    drain_seconds: float = 30.0  # running answers may take so long after SIGTERM

    @property
    def on_loopback(self) -> bool:
        """Whether only this machine can connect."""
        if self.host == "localhost":
            return True
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:  # a name: where it leads is for the resolver to say
            return False
