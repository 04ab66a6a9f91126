"""`/docs`: the API as a page for people, made from the OpenAPI document; it loads nothing from anywhere."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from html import escape
from typing import Any

import orjson

_STYLE = """
body{font:16px/1.5 system-ui,sans-serif;max-width:60rem;margin:2rem auto;padding:0 1rem;color:#222;background:#fff}
h2{margin-top:2.5rem;text-transform:capitalize;border-bottom:1px solid #ddd}
details{border:1px solid #ddd;border-radius:6px;margin:.5rem 0;padding:.4rem .8rem}
summary{cursor:pointer}code{font:.9em ui-monospace,monospace;background:#f3f3f3;padding:.1em .3em;border-radius:3px}
b.method{display:inline-block;width:4.5rem;font-family:ui-monospace,monospace}
table{border-collapse:collapse;width:100%;margin:.5rem 0}td{border-top:1px solid #eee;padding:.25rem .6rem .25rem 0;
vertical-align:top}td:first-child{white-space:nowrap}.note{color:#666}
@media(prefers-color-scheme:dark){body{color:#ddd;background:#1b1b1b}code{background:#2c2c2c}
details,h2{border-color:#444}td{border-color:#333}.note{color:#999}}
"""
# Whatever got into the document, a browser runs nothing of it.
HEADERS: Mapping[str, str] = {
    "Content-Security-Policy": "default-src 'none'; style-src 'unsafe-inline'",
    "Referrer-Policy": "no-referrer",
}


def page(document: bytes) -> bytes:
    """The page of an OpenAPI document (JSON) as HTML."""
    api: dict[str, Any] = orjson.loads(document)
    title = escape(api["info"]["title"])
    by_tag: dict[str, list[str]] = {}
    for path, operations in api["paths"].items():
        for method, operation in operations.items():
            text = "".join(_operation(api, method, path, operation))
            by_tag.setdefault(operation["tags"][0], []).append(text)
    parts = [
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{title}</title>',
        f'<meta name="viewport" content="width=device-width"><style>{_STYLE}</style></head><body>',
        f"<h1>{title}</h1><p>{escape(api['info']['description'])} Send a key as <code>X-API-Key</code>; "
        "errors are <code>application/problem+json</code>. For programs: "
        '<a href="/openapi.json">/openapi.json</a>.</p>',
    ]
    for tag, texts in by_tag.items():
        parts += [f"<h2>{escape(tag)}</h2>", *texts]
    parts.append("</body></html>")
    return "".join(parts).encode()


def _operation(api: dict[str, Any], method: str, path: str, operation: dict[str, Any]) -> Iterator[str]:
    yield f'<details id="{escape(operation["operationId"])}"><summary><b class="method">{method.upper()}</b> '
    yield f"<code>{escape(path)}</code> {escape(operation['summary'])}</summary>"
    scope = operation.get("x-required-scope")
    yield f"<p>Needs the scope <code>{escape(scope)}</code>.</p>" if scope else "<p>Needs no key.</p>"
    parameters = operation.get("parameters", [])
    if parameters:
        yield _table(
            "Parameters",
            [
                (p["name"], p["in"] + (", required" if p["required"] else ""), p.get("description", ""))
                for p in parameters
            ],
        )
    body = operation.get("requestBody")
    if body is not None:
        yield from _fields(api, "Body", body["content"]["application/json"]["schema"])
    for status, answer in operation["responses"].items():
        schema = answer.get("content", {}).get("application/json", {}).get("schema")
        if status.startswith("2") and schema is not None:
            yield from _fields(api, f"Answer {status}", schema)
    failures = ", ".join(status for status in operation["responses"] if not status.startswith("2"))
    if failures:
        yield f'<p class="note">Other answers: {failures}</p>'
    yield "</details>"


def _fields(api: dict[str, Any], title: str, schema: dict[str, Any]) -> Iterator[str]:
    found = _resolved(api, schema)
    about = found.get("description")
    if about:
        yield f'<p class="note">{escape(about)}</p>'
    required = set(found.get("required", []))
    rows = [
        (name, _kind(api, one) + (", required" if name in required else ""), _resolved(api, one).get("description", ""))
        for name, one in found.get("properties", {}).items()
    ]
    if rows:
        yield _table(title, rows)


def _resolved(api: dict[str, Any], schema: dict[str, Any]) -> dict[str, Any]:
    name = schema.get("$ref")
    return schema if name is None else api["components"]["schemas"][name.rsplit("/", 1)[1]]


def _kind(api: dict[str, Any], schema: dict[str, Any]) -> str:
    """The type of a field in a few words."""
    if "anyOf" in schema:
        return " or ".join(_kind(api, one) for one in schema["anyOf"])
    if "$ref" in schema:
        return str(_resolved(api, schema).get("title", "object"))
    if "enum" in schema:
        return " | ".join(str(word) for word in schema["enum"])
    if schema.get("type") == "array":
        return f"list of {_kind(api, schema.get('items', {}))}"
    return str(schema.get("format") or schema.get("type") or "any")


def _table(title: str, rows: list[tuple[str, str, str]]) -> str:
    lines = "".join(
        f"<tr><td><code>{escape(name)}</code></td><td>{escape(kind)}</td><td>{escape(about)}</td></tr>"
        for name, kind, about in rows
    )
    return f"<p><b>{escape(title)}</b></p><table>{lines}</table>"
