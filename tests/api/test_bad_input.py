"""Whatever is sent, the answer is the contract's: the right status, the field's name, never a failure of ours."""

from __future__ import annotations

import gzip
import io
import re
import uuid
from collections.abc import AsyncIterator
from typing import Any

import msgspec
import pytest

from tests.api.client import Client, assert_problem, assert_rate_headers, booking
from tests.api.stack import Stack

PATH = "/api/appointments"
NOBODYS = "0192a3b4-c5d6-7e8f-9a0b-1c2d3e4f5061"
MISSING = object()
FAR = "2999-01-01T10:00:00Z"


@pytest.fixture
async def good(api: Client) -> dict[str, Any]:
    """A wish that would be fulfilled."""
    return booking((await api.starts("cal-2"))[30], "cal-2")


def fields_of(problem: dict[str, Any]) -> list[str]:
    return [found["field"] for found in problem["details"]["fields"]]


WRONG_FIELDS: list[Any] = [
    (name, value, name)
    for name in ("calendar_id", "start_time", "contact_email", "contact_name", "notes", "timezone", "coach_id")
    for value in (7, 1.5, True, [], {}, ["x"])
] + [
    ("calendar_id", MISSING, "calendar_id"),
    ("start_time", MISSING, "start_time"),
    ("contact_email", MISSING, "contact_email"),
    ("calendar_id", None, "calendar_id"),
    ("start_time", None, "start_time"),
    ("contact_email", None, "contact_email"),
    ("calendar_id", "", "calendar_id"),
    ("calendar_id", "x" * 129, "calendar_id"),
    ("calendar_id", "cal-1\0", "calendar_id"),
    ("coach_id", "coach-1\0", "coach_id"),
    ("coach_id", "", "coach_id"),
    ("start_time", "", "start_time"),
    ("start_time", "tomorrow", "start_time"),
    ("start_time", "2026-13-01T10:00:00Z", "start_time"),
    ("start_time", "2026-02-30T10:00:00Z", "start_time"),
    ("start_time", "2026-12-01T25:00:00Z", "start_time"),
    ("start_time", "2026-12-01T10:00:00+99:00", "start_time"),
    ("start_time", "0001-01-01T00:00:00+14:00", "start_time"),
    ("start_time", "9999-12-31T23:59:59-14:00", "start_time"),
    ("start_time", "2020-01-01T10:00:00Z", "start_time"),
    ("start_time", FAR, "start_time"),
    ("start_time", "2030-01-01T10:00:00", "start_time"),
    ("end_time", "later", "end_time"),
    ("end_time", FAR, "end_time"),
    ("end_time", "2020-01-01T10:00:00Z", "end_time"),
    ("contact_email", "", "contact_email"),
    ("contact_email", "no-at-sign", "contact_email"),
    ("contact_email", "a@b@c", "contact_email"),
    ("contact_email", "a b@example.com", "contact_email"),
    ("contact_email", "a\0@example.com", "contact_email"),
    ("contact_email", "a\u200b@example.com", "contact_email"),
    ("contact_email", "\u202ea@example.com", "contact_email"),
    ("contact_email", "a\ufe0f@example.com", "contact_email"),
    ("contact_email", "a@\u3164example.com", "contact_email"),
    ("contact_email", "x" * 300 + "@example.com", "contact_email"),
    ("contact_name", "", "contact_name"),
    ("contact_name", "x" * 201, "contact_name"),
    ("contact_name", "a\0b", "contact_name"),
    ("notes", "x" * 5001, "notes"),
    ("notes", "\0", "notes"),
    ("timezone", "Mars/Olympus", "timezone"),
    ("timezone", "", "timezone"),
    ("timezone", "../../etc/passwd", "timezone"),
    ("timezone", "America/New_York\0", "timezone"),
    ("timezone", "x" * 10_000, "timezone"),
    ("metadata", 7, "metadata"),
    ("metadata", [], "metadata"),
    ("metadata", None, "metadata"),
    ("metadata", {"a": 2**70}, "metadata"),
    ("metadata", {"a": "\0"}, "metadata.a"),
    ("metadata", {"\0": 1}, "metadata"),
    ("metadata", {"a": [{"b": "\0"}]}, "metadata.a.b"),
    ("metadata", {"a": "x" * 17_000}, "metadata"),
    ("surprise", 1, "surprise"),
    ("appointment_id", NOBODYS, "appointment_id"),
]


@pytest.mark.parametrize(
    ("name", "value", "named"), WRONG_FIELDS, ids=[f"{n}-{str(v)[:20]!a}" for n, v, _ in WRONG_FIELDS]
)
async def test_a_wrong_field_is_named(api: Client, good: dict[str, Any], name: str, value: Any, named: str) -> None:
    wish = {**good, name: value}
    if value is MISSING:
        del wish[name]
    answer = await api("POST", PATH, wish)
    assert fields_of(assert_problem(answer, 400, "VALIDATION_ERROR")) == [named], answer.raw
    assert_rate_headers(answer)


async def test_the_time_must_be_one_that_can_be_booked(api: Client, good: dict[str, Any], stack: Stack) -> None:
    seen = await stack.rows(
        "SELECT to_char(date_trunc('hour', now() AT TIME ZONE 'UTC') + n * interval '1 minute',"
        ' \'YYYY-MM-DD"T"HH24:MI:SS"Z"\') AS text FROM unnest(ARRAY[-60, 60, 60 * 24 * 45]) AS n'
    )
    past, soon, far = (row["text"] for row in seen)
    for text, words in ((past, "past"), (soon, "notice"), (far, "30 days ahead")):
        problem = assert_problem(await api("POST", PATH, {**good, "start_time": text}), 400, "VALIDATION_ERROR")
        assert words in problem["details"]["fields"][0]["message"]
    off_grid = good["start_time"].replace(":00Z", ":07Z"), good["start_time"].replace("0:00Z", "5:00Z")
    for text in off_grid[:1]:
        problem = assert_problem(await api("POST", PATH, {**good, "start_time": text}), 400, "VALIDATION_ERROR")
        assert "grid" in problem["details"]["fields"][0]["message"]
    gap = {**good, "start_time": "2027-03-14T02:30:00", "timezone": "America/New_York"}
    assert fields_of(assert_problem(await api("POST", PATH, gap), 400, "VALIDATION_ERROR")) == ["start_time"]


@pytest.mark.parametrize("depth", [5, 200, 300, 900, 950, 960, 970, 980, 985, 990, 995, 1000, 1500, 20_000])
@pytest.mark.parametrize(("opened", "closed"), [('{"a":', "}"), ("[", "]")], ids=["objects", "lists"])
async def test_nesting_of_any_depth_is_taken_or_refused(
    api: Client, good: dict[str, Any], depth: int, opened: str, closed: str
) -> None:
    text = msgspec.json.encode({**good, "calendar_id": "cal-99"}).decode()[:-1]
    deep = opened * depth + "1" + closed * depth
    answer = await api("POST", PATH, raw=f'{text},"metadata":{{"x":{deep}}}}}'.encode()[:65_536])
    assert (answer.status, answer.json["error"]) in ((404, "NOT_FOUND"), (400, "VALIDATION_ERROR"))
    assert_problem(answer, answer.status, answer.json["error"])


RAW: dict[str, bytes] = {
    "empty": b"",
    "space": b"   ",
    "cut": b'{"calendar_id":',
    "not-json": b"{not json",
    "list": b"[]",
    "null": b"null",
    "number": b"7",
    "text": b'"text"',
    "two": b"{}{}",
    "not-utf-8": b'{"calendar_id":"\xff\xfe"}',
    "nul-byte": b'{"calendar_id":"cal\x00-1"}',
    "surrogate-bytes": b'{"calendar_id":"\xed\xa0\x80"}',
    "utf-16": '{"calendar_id":"cal-1"}'.encode("utf-16"),
    "byte-order-mark": b"\xef\xbb\xbf{}",
    "surrogate-value": b'{"calendar_id":"\\ud800"}',
    "surrogate-pair-twice-high": b'{"calendar_id":"\\ud800\\ud800"}',
    "surrogate-low": b'{"calendar_id":"\\udc00"}',
    "surrogate-name": b'{"\\ud800":1}',
    "nul-name": b'{"\\u0000":1}',
    "nan": b'{"metadata":{"a":NaN}}',
    "infinite": b'{"metadata":{"a":1e999}}',
    "endless-number": b'{"metadata":{"a":' + b"9" * 5000 + b"}}",
    "endless-fraction": b'{"metadata":{"a":0.' + b"9" * 5000 + b"}}",
    "comment": b'{/* */"calendar_id":"cal-1"}',
}


@pytest.mark.parametrize("name", RAW)
async def test_bytes_that_are_no_request_are_refused(api: Client, name: str) -> None:
    answer = await api("POST", PATH, raw=RAW[name])
    assert_problem(answer, 400, "VALIDATION_ERROR")
    assert_rate_headers(answer)


@pytest.mark.parametrize("name", ["contact_name", "notes", "metadata"])
async def test_half_a_character_in_text_is_refused(api: Client, good: dict[str, Any], name: str) -> None:
    for half in (b"\\ud800", b"\\ud800\\u0041", b"\\ud83d\\ud83d", b"\\udfff"):
        text = b'"' + half + b'"' if name != "metadata" else b'{"a":"' + half + b'"}'
        raw = msgspec.json.encode({field: value for field, value in good.items() if field != name})[:-1]
        answer = await api("POST", PATH, raw=raw + b',"' + name.encode() + b'":' + text + b"}")
        assert_problem(answer, 400, "VALIDATION_ERROR")


async def test_text_of_every_script_is_kept_as_it_is(api: Client, good: dict[str, Any]) -> None:
    text = "\U0001f600 \u05d0\u05d1 \u0301 \u200d \ufeff \uffff \x01 \\ \" ' ; DROP TABLE"
    wish = {**good, "contact_name": text, "notes": text, "metadata": {text: [text, None, 1.5, 2**53, {"a": False}]}}
    answer = await api("POST", PATH, wish)
    assert answer.status == 201, answer.raw
    shown = (await api("GET", answer.headers["Location"])).json
    assert {name: shown[name] for name in ("contact_name", "notes", "metadata")} == {
        name: wish[name] for name in ("contact_name", "notes", "metadata")
    }
    assert shown == answer.json


@pytest.mark.parametrize(("field", "value"), [("calendar_id", "cal-99"), ("coach_id", "coach-99")])
async def test_an_unknown_id_is_not_found(api: Client, good: dict[str, Any], field: str, value: str) -> None:
    answer = await api("POST", PATH, {**good, field: value})
    assert_problem(answer, 404, "NOT_FOUND")
    assert_rate_headers(answer)


async def test_a_coach_of_another_team_cannot_be_booked_through_a_calendar(api: Client, good: dict[str, Any]) -> None:
    problem = assert_problem(await api("POST", PATH, {**good, "coach_id": "coach-1"}), 400, "VALIDATION_ERROR")
    assert fields_of(problem) == ["coach_id"]


@pytest.mark.parametrize(
    "text", ["not-an-id", "%00", "%ff", "a%2Fb", "..%2f..", "1", "x" * 5000, "%F0%9F%98%80", "' OR 1=1"]
)
async def test_ids_in_a_path_that_are_none_are_not_found(api: Client, text: str) -> None:
    escaped = text.replace(" ", "%20")
    for method, path in (
        ("GET", f"{PATH}/{escaped}"),
        ("DELETE", f"{PATH}/{escaped}"),
        ("POST", f"{PATH}/{escaped}/cancel"),
        ("GET", f"/api/webhooks/events/{escaped}"),
    ):
        answer = await api(method, path)
        assert_problem(answer, 404, "NOT_FOUND")


async def test_an_id_nobody_has_is_not_found(api: Client) -> None:
    for method, path in (("GET", ""), ("DELETE", ""), ("POST", "/cancel")):
        answer = await api(method, f"{PATH}/{uuid.uuid4()}{path}")
        assert_problem(answer, 404, "NOT_FOUND")
        assert_rate_headers(answer)


@pytest.mark.parametrize(
    ("query", "field"),
    [
        ("days=0", "days"),
        ("days=32", "days"),
        ("days=seven", "days"),
        ("days=", "days"),
        ("days=1e1", "days"),
        ("days=%D9%A3", "days"),
        ("days=-1", "days"),
        ("days=99999999999999999999", "days"),
        ("days=1&days=2", "days"),
        ("from=yesterday", "from"),
        ("from=2026-13-01", "from"),
        ("from=0001-01-01T00:00:00%2B14:00", "from"),
        ("from=9999-12-31", "from"),
        ("from=9999-12-31T23:59:59-14:00", "from"),
        ("from=2027-03-14T02:30:00&timezone=America/New_York", "from"),
        ("from=2027-03-15T02:30:00", "from"),
        ("from=%00", "from"),
        ("timezone=Nowhere", "timezone"),
        ("timezone=", "timezone"),
        ("timezone=%FF", "timezone"),
        ("group_by=coffee", "group_by"),
        ("include=tea", "include"),
        ("unknown=1", "unknown"),
        ("%00=1", "\0"),
        ("calendar_id=%00", "calendar_id"),
        ("coach_id=a%00", "coach_id"),
    ],
)
async def test_a_wrong_parameter_is_named(api: Client, query: str, field: str) -> None:
    answer = await api("GET", f"/api/availability?{query}")
    assert fields_of(assert_problem(answer, 400, "VALIDATION_ERROR")) == [field]
    assert_rate_headers(answer)


@pytest.mark.parametrize(
    "query", ["calendar_id=cal-99", "coach_id=coach-99", "calendar_id=", "calendar_id=%FF%FE", "coach_id=%ED%A0%80"]
)
async def test_an_unknown_calendar_or_coach_is_not_found(api: Client, query: str) -> None:
    assert_problem(await api("GET", f"/api/availability?{query}"), 404, "NOT_FOUND")


@pytest.mark.parametrize(
    "query",
    ["to=2000-01-01", "from=2030-01-01&to=2030-01-01", "from=2030-01-01&to=2032-01-01", "from=x", "to=x", "a=b",
     "to=9999-12-31T23:59:59-14:00", "from=9999-12-31", "from=0001-01-01", "from=0001-01-01&to=0001-01-02",
     "from=1969-12-31&to=1970-01-02", "from=9998-12-31&to=9999-12-31", "to=9999-12-31T12:00:00Z",
     "from=9999-12-30T00:00:00Z", "from=0001-01-01T00:00:00Z&to=0001-01-02T00:00:00Z"],
)  # fmt: skip
async def test_a_window_that_is_none_is_refused_or_empty(api: Client, query: str) -> None:
    answer = await api("GET", f"/api/coaches/distribution?{query}")
    if answer.status != 200:
        assert_problem(answer, 400, "VALIDATION_ERROR")
    assert_rate_headers(answer)
    assert_problem(await api("GET", "/api/coaches/distribution?calendar_id=cal-99"), 404, "NOT_FOUND")


@pytest.mark.parametrize(
    ("body", "named"),
    [({"reason": 7}, "reason"), ({"reason": "x" * 1001}, "reason"), ({"reason": "\0"}, "reason"), ({"why": "x"}, "why"),
     ([], "body")],
)  # fmt: skip
async def test_a_wrong_reason_cancels_nothing(api: Client, good: dict[str, Any], body: Any, named: str) -> None:
    made = await api("POST", PATH, booking((await api.starts())[60]))
    path = made.headers["Location"]
    for method, where in (("DELETE", path), ("POST", f"{path}/cancel")):
        problem = assert_problem(await api(method, where, body), 400, "VALIDATION_ERROR")
        assert fields_of(problem) == [named]
    assert (await api("GET", path)).json["status"] == "scheduled"
    assert (await api("DELETE", path)).status == 200


async def body_of(size: int, chunk: int = 65_536) -> AsyncIterator[bytes]:
    for _ in range(size // chunk):
        yield b"x" * chunk


@pytest.mark.parametrize("path", [PATH, "/api/webhooks/calendar", f"{PATH}/{NOBODYS}/cancel"])
async def test_a_body_above_64_kib_is_refused_whole_or_in_chunks(api: Client, path: str) -> None:
    for raw in (b"x" * 65_537, io.BytesIO(b"x" * 10_000_000), body_of(10_485_760)):
        answer = await api("POST", path, raw=raw)
        assert_problem(answer, 413, "PAYLOAD_TOO_LARGE")
        assert_rate_headers(answer)
    assert_problem(await api("POST", PATH, raw=b" " * 65_536), 400, "VALIDATION_ERROR")
    assert_problem(await api.with_key(None)("POST", PATH, raw=b"x" * 70_000), 401, "AUTHENTICATION_FAILED")


async def test_a_body_nobody_reads_is_refused_all_the_same(api: Client) -> None:
    refused = await api("GET", "/api/availability", raw=body_of(10_485_760))
    assert_problem(refused, 413, "PAYLOAD_TOO_LARGE")
    assert (await api("GET", "/api/availability", raw=b"x" * 100)).status == 200
    assert (await api("OPTIONS", "/api/availability", raw=body_of(10_485_760))).status == 204


async def test_a_body_where_none_belongs_is_refused(api: Client, stack: Stack) -> None:
    api = api.with_key(await stack.add_key("read", "write", "admin"))
    paths = (await api("GET", "/openapi.json")).json["paths"]
    bare = [
        (method.upper(), re.sub(r"\{\w+\}", NOBODYS, path))
        for path, operations in paths.items()
        for method, operation in operations.items()
        if method != "get" and "requestBody" not in operation
    ]
    assert ("POST", f"{PATH}/{NOBODYS}/no-show") in bare
    assert ("DELETE", f"/api/coaches/{NOBODYS}") in bare
    for method, path in bare:
        for raw, named in ((b'{"reason":"ill"}', "reason"), (b"ill", "body"), (b"[]", "body")):
            refused = await api(method, path, raw=raw)
            assert fields_of(assert_problem(refused, 400, "VALIDATION_ERROR")) == [named], path
            assert_rate_headers(refused)
        other = await api(method, path, raw=b"reason=ill", headers={"Content-Type": "text/plain"})
        assert_problem(other, 415, "UNSUPPORTED_MEDIA_TYPE")
        if NOBODYS in path:
            assert_problem(await api(method, path, {}), 404, "NOT_FOUND")


@pytest.mark.parametrize(
    "media", ["application/x-www-form-urlencoded", "text/plain", "multipart/form-data; boundary=x", "", "application/"]
)
async def test_only_json_is_taken(api: Client, good: dict[str, Any], media: str) -> None:
    answer = await api("POST", PATH, raw=msgspec.json.encode(good), headers={"Content-Type": media})
    assert_problem(answer, 415, "UNSUPPORTED_MEDIA_TYPE")
    assert_rate_headers(answer)


async def test_a_packed_body_is_refused(api: Client, good: dict[str, Any]) -> None:
    packed = gzip.compress(msgspec.json.encode(good))
    answer = await api("POST", PATH, raw=packed, headers={"Content-Encoding": "gzip"})
    assert "Content-Encoding" in assert_problem(answer, 415, "UNSUPPORTED_MEDIA_TYPE")["message"]
    plain = await api("POST", PATH, good, headers={"Content-Encoding": "identity"})
    assert plain.status == 201


@pytest.mark.parametrize("media", ["application/json", "application/json; charset=utf-8", "APPLICATION/JSON"])
async def test_json_may_be_said_in_several_ways(api: Client, good: dict[str, Any], media: str) -> None:
    wish = {**good, "calendar_id": "cal-99"}
    answer = await api("POST", PATH, raw=msgspec.json.encode(wish), headers={"Content-Type": media})
    assert_problem(answer, 404, "NOT_FOUND")
