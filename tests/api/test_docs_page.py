"""The page for people: everything there is, nothing from elsewhere, nothing that runs."""

from __future__ import annotations

import re
from html.parser import HTMLParser

import orjson
import pytest

from service.api.docs_page import page
from tests.api.client import Client


class _Reader(HTMLParser):
    """Reads a page: its text, the tags and where they lead; complains about tags that do not match."""

    def __init__(self) -> None:
        super().__init__()
        self.text: list[str] = []
        self.tags: list[str] = []
        self.links: list[str] = []
        self._open: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.links += [value or "" for name, value in attrs if name in {"href", "src"}]
        if tag not in {"meta", "link", "br"}:
            self._open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text.append(data)

    def close(self) -> None:
        super().close()
        assert self._open == []


def _read(html: bytes) -> _Reader:
    reader = _Reader()
    reader.feed(html.decode())
    reader.close()
    return reader


async def test_the_page_shows_every_operation_and_loads_nothing(api: Client) -> None:
    answer = await api.with_key(None)("GET", "/docs")
    assert answer.status == 200
    assert answer.headers["Content-Type"] == "text/html; charset=utf-8"
    assert "default-src 'none'" in answer.headers["Content-Security-Policy"]
    read = _read(answer.raw)
    assert set(read.links) == {"/openapi.json"}
    assert not {"script", "img", "iframe", "link"} & set(read.tags)
    assert not re.search(rb"url\(|@import|https?:", answer.raw)
    document = (await api.with_key(None)("GET", "/openapi.json")).json
    words = " ".join("".join(read.text).split())
    for path, operations in document["paths"].items():
        for method, operation in operations.items():
            assert f"{method.upper()} {path} {operation['summary']}" in words
    assert "contact_email" in words
    assert read.tags.count("details") == sum(len(operations) for operations in document["paths"].values())


@pytest.mark.parametrize("word", ["<script>alert(1)</script>", '"><img src=x>', "a & b"])
def test_what_stands_in_the_document_is_text_on_the_page(word: str) -> None:
    operation = {
        "operationId": word,
        "tags": [word],
        "summary": word,
        "parameters": [{"name": word, "in": "query", "required": True, "description": word}],
        "responses": {"200": {"description": "OK"}, "404": {"description": word}},
    }
    document = {"info": {"title": word, "description": word}, "paths": {word: {"get": operation}}, "components": {}}
    read = _read(page(orjson.dumps(document)))
    assert not {"script", "img"} & set(read.tags)
    assert "".join(read.text).count(word) >= 5
