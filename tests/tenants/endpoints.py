"""The endpoints as the served `/openapi.json` tells them, and requests made from what it says.

An endpoint that is added is asked like every other. Where it needs something nobody has told the tests yet, they
fail with the place where to say it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from itertools import product
from typing import Any
from urllib.parse import quote

from tests.tenants.tenant import Tenant

# Words in which a request names what belongs to somebody.
REFERENCES = frozenset(
    {"appointment_id", "calendar_id", "coach_id", "contact_id", "contact_email", "time_off_id", "endpoint_id"}
)
LISTS = {"calendar_ids": "calendar_id", "coach_ids": "coach_id"}
# In these bodies an id is not looked for but given to what is made, or is the event's own.
GIVEN = frozenset(
    {("create_coach", "coach_id"), ("create_calendar", "calendar_id"), ("book_appointment", "contact_email")}
)
NEW = frozenset({"event_id"})
# What must be said although the schema cannot tell: one of several fields, or those of the kind of an event.
NEEDED = {"book_appointment": {"contact_email"}, "accept_calendar_event": {"event_id", "appointment_id"}}
# Places of a path that every organization has alike.
SHARED = frozenset({"destination"})
# What is sent where nothing is required, so that there is a change to make.
HARMLESS = ("name", "notes", "reason", "description")


@dataclass(frozen=True)
class Request:
    """One request, to be sent with any key."""

    method: str
    path: str
    query: Mapping[str, str] = field(default_factory=dict)
    body: Any = None

    @property
    def target(self) -> str:
        """Path and query as they are sent."""
        words = "&".join(f"{name}={quote(value, safe='')}" for name, value in self.query.items())
        return f"{self.path}?{words}" if words else self.path

    def asked(self) -> list[str]:
        """Every text in it: what an answer may repeat."""
        return [*self.path.split("/"), *self.query.values(), *_texts(self.body)]


@dataclass(frozen=True)
class Endpoint:
    """One operation of the document; `query`: whether a parameter must be given, `body`: the properties of its JSON."""

    method: str
    path: str
    operation_id: str
    scope: str | None
    places: tuple[str, ...]
    query: Mapping[str, bool]
    body: Mapping[str, Any]
    required: frozenset[str]
    idempotency: str | None

    def request(
        self,
        asker: Tenant,
        *,
        places: Mapping[str, str] | None = None,
        query: Mapping[str, str] | None = None,
        body: Mapping[str, str] | None = None,
    ) -> Request:
        """A sound request with the asker's own ids, except where others are given."""
        given = places or {}
        path = self.path
        for name in self.places:
            path = path.replace(f"{{{name}}}", quote(given.get(name) or self._own(asker, name), safe=""))
        filled = {name: self._value(asker, name) for name, required in sorted(self.query.items()) if required}
        return Request(self.method, path, {**filled, **(query or {})}, self._body(asker, body or {}))

    def with_places_of(self, other: Tenant, asker: Tenant) -> Iterator[Request]:
        """The endpoint on paths in which at least one id is another organization's and no other's."""
        own = [name for name in self.places if name not in SHARED]
        for choice in product((True, False), repeat=len(own)):
            if any(choice):
                foreign = {name: self._own(other, name) for name, is_foreign in zip(own, choice, strict=True)
                           if is_foreign}  # fmt: skip
                yield self.request(asker, places=foreign)

    def queries_naming(self, other: Tenant, asker: Tenant) -> Iterator[Request]:
        """The endpoint with one parameter that names what is another organization's."""
        for name in self.query:
            if self._is_reference(name):
                yield self.request(asker, query={name: self._own(other, name)})

    def bodies_naming(self, other: Tenant, asker: Tenant) -> Iterator[Request]:
        """The endpoint with one field of its body that names what is another organization's."""
        for name in self.body:
            if (self.operation_id, name) not in GIVEN and self._is_reference(name):
                yield self.request(asker, body={name: self._own(other, LISTS.get(name, name))})

    def _is_reference(self, name: str) -> bool:
        if name in REFERENCES or name in LISTS:
            return True
        known = name in NEW or not name.endswith(("_id", "_ids"))
        assert known, f"{self}: say in REFERENCES, LISTS or NEW of tests/tenants/endpoints.py what `{name}` is"
        return False

    def _own(self, tenant: Tenant, name: str) -> str:
        found = tenant.ids.get(name)
        assert found is not None, f"{self}: make a `{name}` in tests/tenants/tenant.py, and keep it in `ids`"
        return found

    def _value(self, tenant: Tenant, name: str) -> Any:
        if name in tenant.ids:
            return tenant.ids[name]
        found = tenant.value(name)
        assert found is not None, f"{self}: say in Tenant.value of tests/tenants/tenant.py what to send as `{name}`"
        return found

    def _body(self, asker: Tenant, foreign: Mapping[str, str]) -> Any:
        if not self.body:
            return None
        names = set(self.required)
        names |= NEEDED.get(self.operation_id, set())
        if "event_type" in names and "coach_id" in foreign:
            names = {*names - {"appointment_id"}, "start_time", "end_time"}
        if not names:
            names = {name for name in HARMLESS if name in self.body}
            assert names, f"{self}: say in HARMLESS of tests/tenants/endpoints.py what can be sent"
        if "contact_id" in foreign:
            names.discard("contact_email")
        sent = {name: self._value(asker, name) for name in names}
        if "event_type" in names:
            sent["event_type"] = "coach.unavailable" if "coach_id" in foreign else "appointment.confirmed"
        if "event_id" in names:
            sent["event_id"] = asker.value("event_id")
        return {**sent, **{name: [value] if name in LISTS else value for name, value in foreign.items()}}

    def __str__(self) -> str:
        return f"{self.method} {self.path}"


def endpoints_of(document: Mapping[str, Any]) -> list[Endpoint]:
    """Every operation of an OpenAPI document, changes after looks and deletions last."""
    found = [
        _endpoint(document, method.upper(), path, operation)
        for path, operations in document["paths"].items()
        for method, operation in operations.items()
    ]
    return sorted(found, key=lambda one: (one.method != "GET", one.method == "DELETE", one.path))


def _endpoint(document: Mapping[str, Any], method: str, path: str, operation: Mapping[str, Any]) -> Endpoint:
    parameters = {kind: [p for p in operation["parameters"] if p["in"] == kind] for kind in ("path", "query", "header")}
    schema: Mapping[str, Any] = {}
    if "requestBody" in operation:
        schema = operation["requestBody"]["content"]["application/json"]["schema"]
        if "$ref" in schema:
            schema = document["components"]["schemas"][schema["$ref"].rpartition("/")[2]]
    assert ("x-required-scope" in operation) == ("security" in operation), path
    return Endpoint(
        method=method,
        path=path,
        operation_id=operation["operationId"],
        scope=operation.get("x-required-scope"),
        places=tuple(p["name"] for p in parameters["path"]),
        query={p["name"]: p["required"] for p in parameters["query"]},
        body=schema.get("properties", {}),
        required=frozenset(schema.get("required", ())),
        idempotency=next((p["name"] for p in parameters["header"] if p["name"].endswith("Idempotency-Key")), None),
    )


def _texts(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for inner in value.values():
            yield from _texts(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from _texts(inner)
