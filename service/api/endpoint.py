"""What every request goes through: correlation id, authentication, rate limit, errors, headers, metrics."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar
from uuid import UUID

import msgspec
import orjson
import structlog
import uuid_utils
from prometheus_client import Counter
from sanic import Request
from sanic.exceptions import PayloadTooLarge, RequestCancelled, SanicException

from service.api.intake import Intake
from service.api.parsing import decode_body, fingerprint_of, idempotency_key, query_of
from service.api.problems import Problem, answer, crashed, of_status, problem_of
from service.api.response import Response, lines_of
from service.api.said import Said, body_at_hand, check_media_type, correlation_of, read_body, said_by
from service.claims.gate import Gate
from service.claims.messages import Admission, RateState
from service.claims.scripts import ClaimOutcome, ClaimReply
from service.db.idempotency import Complete, Completion, FinalAnswer, KeyHold
from service.domain.calendar import Roster
from service.errors import (
    BookingError,
    GateClosed,
    NotAuthenticated,
    Overloaded,
    RateLimitExceeded,
    Unavailable,
)
from service.logs import get_logger
from service.metrics import Metrics
from service.operations.authenticate import Authenticate
from service.operations.caller import Caller
from service.operations.carry_out_once import CarryOutOnce, KeyedRequest, Replay
from service.operations.local_rates import LocalRates, RateSeen
from service.operations.rosters import Rosters

_UNLIMITED = str(2**31 - 1)
# What a replay gives beside status and body; every other header belongs to the answer at hand.
_KEPT_HEADERS = ("Location", "ETag")
PRIVATE = "private, no-cache"
METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS")

_log = get_logger("api")

Result = TypeVar("Result")


class _NoFields(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The body of a write that takes none: where there is one, an empty object."""


_NO_FIELDS = msgspec.json.Decoder(_NoFields)


class Call(msgspec.Struct):
    """One request being answered; `hold` of its idempotency key, where the edge keeps its answer."""

    request: Request
    said: Said
    correlation_id: str
    query: Mapping[str, str] = {}
    body: bytes = b""
    rate: RateSeen = msgspec.field(default_factory=RateSeen)
    caller: Caller | None = None
    hold: KeyHold | None = None
    shown_once: tuple[str, ...] = ()

    @property
    def path(self) -> Mapping[str, str]:
        """The parts of the path that have names."""
        return self.said.path

    @property
    def who(self) -> Caller:
        """The caller of a route that asks for a key."""
        if self.caller is None:
            raise AssertionError("the route asks for no key")
        return self.caller

    @property
    def operation(self) -> UUID | None:
        """The id of what the request makes, the same when it is carried out again after a crash; None without a key."""
        return None if self.hold is None else self.hold.operation

    def completing(self, render: Callable[[Result], Response]) -> Complete[Result] | None:
        """What an operation writes, with its effect, as the answer of the request's key; None without a key.

        `render` is how the handler answers the operation's result.
        """
        hold = self.hold
        if hold is None:
            return None

        def complete(result: Result) -> Completion:
            answer = _kept(render(result), self.shown_once)
            if answer is None:
                raise AssertionError("an operation that is completed is answered 2xx")
            return Completion(hold, answer)

        return complete

    def header(self, name: str) -> str | None:
        """A request header, or None."""
        headers: Any = self.request.headers
        return headers.get(name)

    def knows(self, etag: str) -> bool:
        """Whether the client has what this tag stands for, by its `If-None-Match` (compared weakly, RFC 9110)."""
        headers: Any = self.request.headers
        known = headers.get("if-none-match")
        if known is None or known == etag:
            return known is not None
        tags = ",".join(headers.getall("if-none-match")).split(",")
        return any(tag.strip().removeprefix("W/") in (etag, "*") for tag in tags)


Handler = Callable[[Call], Awaitable[Response]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Route:
    """One endpoint: what runs, and what its documentation is made from.

    `scope` None asks for no key, `signed` for a signature instead of one.
    `counts_itself`: the operation takes its rate limit along in its own script call.
    `idempotency`: "optional" for a write whose answer is kept under the key it may have, by the edge unless it
    `replays_itself`; "required" for messages that have an identity of their own. `shown_once`: fields of the answer
    that are left out of what is kept, and so of replays. `always_answered`: also when there is no room for more
    requests, because operators look then. `required`: those of `parameters` that must be given. `if_none_match`: who
    has what would be answered is told so.
    """

    method: str
    path: str
    operation_id: str
    summary: str
    handler: Handler
    scope: str | None
    tag: str
    body: type | None = None
    decoder: msgspec.json.Decoder[Any] | None = None
    body_required: bool = False
    parameters: tuple[tuple[str, str], ...] = ()
    required: tuple[str, ...] = ()
    answer: type | None = None
    status: int = 200
    idempotency: str | None = None
    replays_itself: bool = False
    shown_once: tuple[str, ...] = ("secret",)
    counts_itself: bool = False
    if_match: bool = False
    if_none_match: bool = False
    signed: bool = False
    always_answered: bool = False
    errors: tuple[int, ...] = ()


class Edge:
    """Wraps routes into Sanic handlers."""

    def __init__(
        self,
        *,
        gate: Gate,
        rates: LocalRates,
        rosters: Rosters,
        authenticate: Authenticate,
        once: CarryOutOnce,
        intake: Intake,
        metrics: Metrics,
        cors_origin: str,
    ) -> None:
        self.intake = intake
        self._gate = gate
        self._rates = rates
        self._rosters = rosters
        self._authenticate = authenticate
        self._once = once
        self._metrics = metrics
        self._cors_origin = cors_origin
        # What every answer carries beside its correlation id, as lines.
        self.common = lines_of({"X-Content-Type-Options": "nosniff", **_cross_origin(cors_origin)})
        # And of what is for the owner of a key: no cache that several share may keep it.
        self._private = self.common + lines_of({"Cache-Control": PRIVATE})

    def endpoint(self, route: Route) -> Callable[..., Awaitable[Response]]:
        """The Sanic handler of a route."""
        known = frozenset(name for name, _ in route.parameters)
        latency = self._metrics.latency.labels(route.method, route.path)
        counted: dict[int, Any] = {}

        async def handle(request: Request, **path: str) -> Response:
            started = time.perf_counter()
            http: Any = request.stream
            said: Said | None = http.said
            if said is None:
                said = http.said = said_by(request, path)
            call = Call(request, said, said.correlation_id or str(uuid_utils.uuid4()))
            structlog.contextvars.bind_contextvars(correlation_id=call.correlation_id)
            self._metrics.in_flight.inc()
            try:
                response = await self._answer(route, known, call)
            finally:
                self._metrics.in_flight.dec()
                latency.observe(time.perf_counter() - started)
            count = counted.get(response.status)
            if count is None:
                count = counted[response.status] = self._metrics.requests.labels(
                    route.method, route.path, str(response.status)
                )
            count.inc()
            return response

        handle.__name__ = route.operation_id
        return handle

    async def _answer(self, route: Route, known: frozenset[str], call: Call) -> Response:
        try:
            response = await self._carry_out(route, known, call)
        except BookingError as problem:
            if isinstance(problem, NotAuthenticated) and problem.wait_s:
                await asyncio.sleep(problem.wait_s)  # here, where it takes nobody's room
            response = answer(await self._count_failure(call, problem_of(problem)), call.correlation_id)
            if response.status >= 500 and not isinstance(problem, Overloaded):  # of those there are too many
                _log.warning("request failed", route=route.path, error=type(problem).__name__, message=problem.message)
        except PayloadTooLarge:
            response = answer(
                await self._count_failure(call, of_status(413, "the body is larger than 64 KiB")), call.correlation_id
            )
        except SanicException as problem:
            shown = of_status(problem.status_code, str(problem))
            response = answer(await self._count_failure(call, shown), call.correlation_id)
        except RequestCancelled:
            raise  # the client went away: there is nobody to answer, and no fault of ours
        except Exception:
            _log.exception("request crashed", route=route.path)
            response = answer(crashed(), call.correlation_id)
        mine = route.scope is not None and "Cache-Control" not in response.headers
        self.decorate(response, call.correlation_id, call.rate.state, private=mine)
        return response

    async def _carry_out(self, route: Route, known: frozenset[str], call: Call) -> Response:
        body_problem: Exception | None = None
        stream: Any = call.request.stream
        if stream.request_body:
            at_hand = body_at_hand(stream)
            if at_hand is not None:
                call.body = at_hand
            else:
                if not route.always_answered and self.intake.is_full:
                    raise self.intake.refuse()
                try:
                    call.body = await read_body(call.request)
                except PayloadTooLarge as problem:
                    body_problem = problem
        if route.always_answered:
            return await self._look_into(route, known, call, body_problem)
        self.intake.enter()  # only now: a client that is slow with its body takes nobody's room
        answered = True
        try:
            return await self._look_into(route, known, call, body_problem)
        except (asyncio.CancelledError, RequestCancelled):
            answered = False
            raise
        finally:
            self.intake.leave(answered=answered)

    async def _look_into(
        self, route: Route, known: frozenset[str], call: Call, body_problem: Exception | None
    ) -> Response:
        request, said = call.request, call.said
        if route.scope is not None:
            of_key = said.known
            if of_key is None or not self._authenticate.counts(of_key):
                of_key = said.known = await self._authenticate.known(said.api_key)
            call.caller = self._authenticate.caller(
                of_key, lambda: request.remote_addr or request.ip, call.correlation_id
            )
            call.caller.require(route.scope)
        if body_problem is not None:
            raise body_problem
        if call.body and (route.body is not None or route.method != "GET"):
            if not said.is_json:
                check_media_type(call.header("content-type"), call.header("content-encoding"))
                said.is_json = True
            if route.body is None:  # what nobody reads is a wish that would be ignored silently
                decode_body(call.body, _NO_FIELDS)
        if said.query_text:
            if said.query is None:
                said.query = query_of(said.query_text, known)
            call.query = said.query
        if call.caller is not None and not route.counts_itself:
            await self.admit(call)
        if route.idempotency == "optional" and not route.replays_itself:
            key = idempotency_key(request.headers)
            if key is not None:
                return await self._carry_out_once(route, call, key)
        return await route.handler(call)

    async def _carry_out_once(self, route: Route, call: Call, key: str) -> Response:
        """The handler's answer, or the one the key has."""
        call.shown_once = route.shown_once

        async def work(hold: KeyHold) -> Response:
            call.hold = hold
            return await route.handler(call)

        asked = orjson.dumps([route.path, call.path, dict(call.query)], option=orjson.OPT_SORT_KEYS).decode()
        request = KeyedRequest(call.who.org, key, fingerprint_of(route.method, asked, call.body))
        given = await self._once(request, work, lambda response: _kept(response, route.shown_once))
        if not isinstance(given, Replay):
            return given
        kept = given.answer
        headers = {name: kept.headers[name] for name in _KEPT_HEADERS if name in kept.headers}
        headers["Idempotent-Replayed"] = "true"
        return Response(kept.body, kept.status, headers, kept.headers.get("Content-Type"))

    async def admit(self, call: Call) -> ClaimReply | None:
        """Count the request against its key; (version, revision) of the caller's roster in the reply.

        None where Redis cannot be asked; this process counts by itself then. Raises RateLimitExceeded or Unavailable.
        """
        caller = call.who
        try:
            reply = await self._gate.admit(Admission(caller.org, rate=caller.rate))
        except GateClosed:
            self._rates.count(caller.rate, call.rate)
            return None
        call.rate.state = RateState.after(caller.rate, reply.rate_count, reply.rate_reset_ms)
        if reply.outcome is ClaimOutcome.LIMITED:
            raise RateLimitExceeded(
                "the requests of this window are used up", retry_after_s=max(1, -(-reply.rate_reset_ms // 1000))
            )
        return reply

    async def admit_to_roster(self, call: Call) -> tuple[Roster, int | None]:
        """Count the request; the caller's roster as it is now, and its revision (None where the grid cannot be asked).

        Raises RateLimitExceeded or Unavailable.
        """
        reply = await self.admit(call)
        org = call.who.org
        if reply is None or self._gate.behind:
            return await self._rosters.current(org), None
        version = None if reply.outcome is ClaimOutcome.UNKNOWN_ORG else reply.first
        return await self._rosters.of_version(org, version), reply.second

    async def _count_failure(self, call: Call, problem: Problem) -> Problem:
        """A refused request counts too: over the limit it is answered 429 instead of with its own failure."""
        if call.caller is None or call.rate.state is not None or problem.status == 503:
            return problem  # a gate that did not answer just now is not asked again
        try:
            await self.admit(call)
        except RateLimitExceeded as limited:
            return problem_of(limited)
        except Unavailable:
            return problem
        return problem

    def unrouted(self, method: str, status: int) -> Counter:
        """The counter of such answers to what never reached a route."""
        # A client may make methods up; each would be a series of its own.
        known = method if method in METHODS else "other"
        return self._metrics.requests.labels(known, "(none)", str(status))

    def decorate(self, response: Response, correlation: str, rate: RateState | None, *, private: bool = False) -> None:
        """The headers every answer carries."""
        common = f"X-Correlation-ID: {correlation}\r\n{self._private if private else self.common}"
        if rate is not None:
            left = rate.remaining if rate.limit else _UNLIMITED
            common = (
                f"{common}X-RateLimit-Limit: {rate.limit}\r\nX-RateLimit-Remaining: {left}\r\n"
                f"X-RateLimit-Reset: {-(-rate.reset_ms // 1000)}\r\n"
            )
        response.common = common

    def preflight(self, request: Request, allowed: Sequence[str]) -> Response:
        """The answer to who asks what a path knows, as browsers do before they call."""
        response = Response(status=204)
        self.decorate(response, correlation_of(request), None)
        headers: Any = response.headers
        headers["Allow"] = ", ".join(allowed)
        if self._cors_origin:
            headers["Access-Control-Allow-Methods"] = "GET, POST, PUT, PATCH, DELETE"
            headers["Access-Control-Allow-Headers"] = (
                "Authorization, Content-Type, Idempotency-Key, If-Match, If-None-Match, X-API-Key, "
                "X-Correlation-ID, X-Idempotency-Key, traceparent"
            )
            headers["Access-Control-Max-Age"] = "600"
        return response

    def refusal(self, request: Request, problem: Exception, allowed: Sequence[str] = ()) -> Response:
        """The answer to what never reached a route: unknown paths, methods, malformed requests, timeouts, crashes."""
        correlation = correlation_of(request)
        structlog.contextvars.bind_contextvars(correlation_id=correlation)
        if isinstance(problem, SanicException):
            shown = of_status(problem.status_code, _plain(problem))
        elif isinstance(problem, BookingError):
            shown = problem_of(problem)
        elif isinstance(problem, asyncio.CancelledError):
            # The client went away: there is nobody to answer, and no fault of ours.
            return answer(crashed(), correlation)
        else:
            _log.error("request crashed", exc_info=problem)
            shown = crashed()
        response = answer(shown, correlation)
        self.unrouted(request.method, response.status).inc()
        self.decorate(response, correlation, None)
        if shown.status == 405:
            response.headers["Allow"] = ", ".join(allowed)
        return response


def _kept(response: Response, shown_once: Sequence[str]) -> FinalAnswer | None:
    """What of a response is kept for replays; None of one that is not 2xx."""
    if not 200 <= response.status < 300:
        return None
    given: Any = response.headers
    headers = {name: str(given[name]) for name in _KEPT_HEADERS if name in given}
    if response.content_type:
        headers["Content-Type"] = response.content_type
    body: bytes = response.body or b""
    if any(f'"{name}"'.encode() in body for name in shown_once):
        fields: dict[str, Any] = orjson.loads(body)
        body = orjson.dumps({name: value for name, value in fields.items() if name not in shown_once})
    return FinalAnswer(response.status, headers, body)


def _cross_origin(allowed: str) -> dict[str, str]:
    """What lets a page of the `allowed` origin read an answer; nothing where none is."""
    if not allowed:
        return {}
    exposed = (
        "ETag, Location, Retry-After, X-Correlation-ID, Idempotent-Replayed, "
        "X-RateLimit-Limit, X-RateLimit-Remaining, X-RateLimit-Reset"
    )
    return {"Access-Control-Allow-Origin": allowed, "Access-Control-Expose-Headers": exposed}


def _plain(problem: SanicException) -> str:
    if problem.status_code == 404:
        return "there is nothing at this path"
    if problem.status_code == 405:
        return "this path does not know this method"
    # It may tell of a header, whose bytes that are no UTF-8 arrive as half characters.
    return str(problem).encode(errors="replace").decode() or "the request cannot be read"
