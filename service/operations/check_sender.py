"""Whose event it is that comes with a signature instead of a key.

Whoever is refused learns nothing: an organization nobody knows, one without a secret, a wrong signature and an old one
are the same refusal, and cost the same.
"""

from __future__ import annotations

import re
from datetime import datetime, timedelta

from service.clock import Clock
from service.db.calendar_secrets import CalendarSecretStore
from service.domain.signed_message import is_signed, new_secret, secret_text
from service.errors import NotAuthenticated
from service.operations.tracking import TrackedTasks

OVERLAP = timedelta(hours=24)
_NAME = re.compile(r"[\x21-\x7e]{1,64}")


class CheckSender:
    """Finds the organization behind a signed message, and makes the secrets for it."""

    def __init__(self, secrets: CalendarSecretStore, clock: Clock, tasks: TrackedTasks) -> None:
        self._secrets = secrets
        self._clock = clock
        self._tasks = tasks
        self._nobodys = new_secret()

    async def __call__(
        self, organization: str, *, message_id: str, timestamp: str, signatures: str, body: bytes
    ) -> int:
        """The organization. Raises NotAuthenticated or Unavailable."""
        org, known = await self._secrets.of(organization if _NAME.fullmatch(organization) else "")
        signed = is_signed(
            known or [self._nobodys],
            message_id=message_id,
            timestamp=timestamp,
            signatures=signatures,
            body=body,
            now=self._clock.now().timestamp(),
        )
        if org is None or not signed:
            raise NotAuthenticated("this event is not signed as it must be")
        return org

    async def rotate(self, org: int) -> tuple[str, datetime | None]:
        """A new secret as text, and until when the one before it counts. Raises Unavailable or OutcomeUnknown."""
        secret = new_secret()
        until = await self._tasks.run(self._secrets.rotate(org, secret, OVERLAP))
        return secret_text(secret), until
