"""Calls endpoints that organizations registered: webhooks after the Standard Webhooks specification."""

from __future__ import annotations

from collections.abc import Sequence

import aiohttp
import msgspec

from service.clock import Clock
from service.domain.signed_message import signatures_of
from service.outside.http import EXCERPT_BYTES, Attempt, attempt


class Message(msgspec.Struct, frozen=True, kw_only=True):
    """What an endpoint is told: the same bytes under the same id at every attempt."""

    message_id: str
    body: bytes
    correlation_id: str


class EndpointCaller:
    """Posts messages. Each is one attempt; trying again is the caller's."""

    def __init__(self, session: aiohttp.ClientSession, timeout_s: float, clock: Clock) -> None:
        self._session = session
        self._timeout_s = timeout_s
        self._clock = clock

    async def post(self, url: str, secrets: Sequence[bytes], message: Message) -> Attempt:
        """One POST, signed with every secret as of now; of the answer the first kilobyte is kept."""
        timestamp = int(self._clock.now().timestamp())
        return await attempt(
            self._session,
            "POST",
            url,
            body=msgspec.Raw(message.body),
            headers={
                "webhook-id": message.message_id,
                "webhook-timestamp": str(timestamp),
                "webhook-signature": signatures_of(secrets, message.message_id, timestamp, message.body),
                "X-Correlation-ID": message.correlation_id,
            },
            timeout_s=self._timeout_s,
            most_bytes=EXCERPT_BYTES,
            cut=True,
        )
