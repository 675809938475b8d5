"""Mount the page at `/` and its static files below `/static/`.

The files are read once, at mount: a few hundred kilobytes, each with a strong ETag (its SHA-256), so a browser that
comes back transfers nothing but 304 answers. There is no path from a request to the file system.
"""

import gzip
import hashlib
import mimetypes
import re
from dataclasses import dataclass
from pathlib import Path

from fastapi import FastAPI, Request, Response

STATIC = Path(__file__).parent / "static"

# Nothing inline, nothing from elsewhere: what a model writes can neither run nor call out, even past the sanitiser.
CONTENT_SECURITY_POLICY = "; ".join(
    [
        "default-src 'none'",
        "script-src 'self'",
        "style-src 'self'",
        "img-src 'self' data: blob:",
        "connect-src 'self'",
        "font-src 'self'",
        "manifest-src 'self'",
        "base-uri 'none'",
        "form-action 'none'",
        "frame-ancestors 'none'",
    ]
)

SECURITY_HEADERS = {
    "Content-Security-Policy": CONTENT_SECURITY_POLICY,
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(), geolocation=(), microphone=()",
}

# By name, since a machine's own table of types decides what `mimetypes` answers for scripts.
MEDIA_TYPES = {
    ".css": "text/css; charset=utf-8",
    ".html": "text/html; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".json": "application/json",
    ".mjs": "text/javascript; charset=utf-8",
    ".png": "image/png",
    ".svg": "image/svg+xml",
    ".webmanifest": "application/manifest+json",
}


@dataclass(frozen=True)
class Asset:
    """One static file in memory: as it is, and compressed where that is smaller."""

    media_type: str
    plain: bytes
    compressed: bytes | None
    digest: str

    @staticmethod
    def read(path: Path) -> "Asset":
        """The file at `path`; its media type follows from its name, text when unknown (licences)."""
        return Asset.of(path.name, path.read_bytes())

    @staticmethod
    def of(name: str, plain: bytes) -> "Asset":
        """The bytes of a file called `name`."""
        suffix = Path(name).suffix
        media_type = MEDIA_TYPES.get(suffix) or mimetypes.guess_type(name)[0] or "text/plain; charset=utf-8"
        compressed = gzip.compress(plain, mtime=0)
        return Asset(
            media_type, plain, compressed if len(compressed) < len(plain) else None, hashlib.sha256(plain).hexdigest()
        )

    def response(self, request: Request) -> Response:
        """200 with the file, or 304 when the browser holds this very version (RFC 9110, sections 8.8.3 and 13.1.2)."""
        compressed = self.compressed if accepts_gzip(request.headers.get("accept-encoding", "")) else None
        # A strong tag names bytes, and the two encodings are different bytes.
        etag = f'"{self.digest}{"-gzip" if compressed is not None else ""}"'
        headers = {**SECURITY_HEADERS, "ETag": etag, "Cache-Control": "no-cache", "Vary": "Accept-Encoding"}
        if matches(request.headers.get("if-none-match", ""), etag):
            return Response(status_code=304, headers=headers)
        if compressed is not None:
            return Response(compressed, media_type=self.media_type, headers={**headers, "Content-Encoding": "gzip"})
        return Response(self.plain, media_type=self.media_type, headers=headers)


def accepts_gzip(accept_encoding: str) -> bool:
    """Whether an Accept-Encoding header allows gzip; a quality of zero forbids it (RFC 9110, section 12.5.3)."""
    for part in accept_encoding.split(","):
        coding, _, parameter = part.strip().partition(";")
        if coding.strip().lower() == "gzip":
            return not re.fullmatch(r"\s*q\s*=\s*0(\.0*)?\s*", parameter, re.IGNORECASE)
    return False


def matches(if_none_match: str, etag: str) -> bool:
    """Whether an If-None-Match header names `etag`, compared weakly as the standard asks."""
    tags = [tag.strip().removeprefix("W/") for tag in if_none_match.split(",")]
    return etag in tags or "*" in tags


def page_with_preloads(html: str) -> str:
    """The page, naming every module it needs at once, so that the browser fetches them together and not one by one.

    What is under `js/later/` is fetched when it is first used.
    """
    modules = ["vendor/markdown-it/markdown-it.mjs", "vendor/dompurify/purify.mjs"]
    found = (path.relative_to(STATIC) for path in (STATIC / "js").rglob("*.js"))
    modules += sorted(path.as_posix() for path in found if "later" not in path.parts)
    links = (f'<link rel="modulepreload" href="/static/{name}">' for name in modules)
    return html.replace("<!-- modules -->", "\n    ".join(links))


def mount(app: FastAPI) -> None:
    """Add the page (also for shared chats), its files and its service worker to `app`, outside its API schema."""
    assets = {path.relative_to(STATIC).as_posix(): Asset.read(path) for path in STATIC.rglob("*") if path.is_file()}
    assets["index.html"] = Asset.of(
        "index.html", page_with_preloads((STATIC / "index.html").read_text("utf-8")).encode()
    )

    @app.get("/", include_in_schema=False)
    async def page(request: Request) -> Response:
        return assets["index.html"].response(request)

    @app.get("/share/{token}", include_in_schema=False)
    async def shared(request: Request, token: str) -> Response:  # noqa: ARG001 - the page reads it from its address
        return assets["index.html"].response(request)

    # At the root, since a service worker governs only what lies beside it and below.
    @app.get("/worker.js", include_in_schema=False)
    async def worker(request: Request) -> Response:
        return assets["worker.js"].response(request)

    @app.get("/static/{name:path}", include_in_schema=False)
    async def static(request: Request, name: str) -> Response:
        asset = assets.get(name)
        return asset.response(request) if asset is not None else Response(status_code=404, headers=SECURITY_HEADERS)
