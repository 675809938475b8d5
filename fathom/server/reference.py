"""`/docs`: the OpenAPI document as one page to read. No script and nothing from elsewhere: it works offline."""

import base64
import hashlib
from collections.abc import Iterator
from html import escape
from typing import Any

_STYLE = (
    ":root{color-scheme:light dark}"
    "body{font:16px/1.5 system-ui,sans-serif;max-width:60rem;margin:2rem auto;padding:0 1rem}"
    "h2{margin-top:2.5rem;font-size:1.1rem}code{font-size:.95em}table{border-collapse:collapse;width:100%}"
    "td,th{text-align:start;vertical-align:top;padding:.25rem .75rem .25rem 0;border-bottom:1px solid #8884}"
)
_HASH = base64.b64encode(hashlib.sha256(_STYLE.encode()).digest()).decode()
CONTENT_SECURITY_POLICY = f"default-src 'none'; style-src 'sha256-{_HASH}'; frame-ancestors 'none'"


def reference_page(document: dict[str, Any]) -> str:
    """An OpenAPI document as HTML: every operation, and the fields of its body."""
    title = escape(f"{document['info']['title']} {document['info']['version']}")
    parts = [
        f"<!doctype html><html lang=en><meta charset=utf-8><meta name=viewport content='width=device-width'>"
        f"<title>{title}: the API</title><style>{_STYLE}</style><h1>{title}: the API</h1>"
        "<p>DeepSeek's and OpenAI's routes answer under <code>/v1</code> and <code>/beta</code> as well. "
        "For programs: <a href=/openapi.json>/openapi.json</a>.</p>"
    ]
    for path, operations in document["paths"].items():
        for method, operation in operations.items():
            parts += _operation(document, f"{method.upper()} {path}", operation)
    return "\n".join(parts)


def _operation(document: dict[str, Any], name: str, operation: dict[str, Any]) -> Iterator[str]:
    yield f"<h2><code>{escape(name)}</code></h2>"
    if text := operation.get("description") or operation.get("summary"):
        yield f"<p>{escape(text)}</p>"
    body = operation.get("requestBody", {}).get("content", {}).get("application/json", {}).get("schema")
    if body is not None:
        schema = _resolved(document, body)
        required = schema.get("required", [])
        yield "<table><tr><th>field<th>type<th>default<th>"
        for field, about in schema.get("properties", {}).items():
            default = "required" if field in required else about.get("default", "")
            cells = (_type(about), str(default), about.get("description", ""))
            yield f"<tr><td><code>{escape(field)}</code>" + "".join(f"<td>{escape(cell)}" for cell in cells)
        yield "</table>"


def _resolved(document: dict[str, Any], schema: dict[str, Any]) -> dict[str, Any]:
    name = schema.get("$ref", "").removeprefix("#/components/schemas/")
    found: dict[str, Any] = document["components"]["schemas"][name] if name else schema
    return found


def _type(schema: dict[str, Any]) -> str:
    """In a few words: `string`, `array of object`, `integer or null`."""
    if "$ref" in schema:
        return "object"
    if choices := schema.get("anyOf") or schema.get("oneOf"):
        return " or ".join(dict.fromkeys(_type(choice) for choice in choices))
    if "enum" in schema or "const" in schema:
        return " | ".join(map(str, schema.get("enum", [schema.get("const")])))
    if schema.get("type") == "array":
        return f"array of {_type(schema.get('items', {}))}"
    return str(schema.get("type", "anything"))
