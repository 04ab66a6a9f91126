"""Creating an organization that can be used at once: its roster is published while it is still empty."""

from __future__ import annotations

import re

from service.db.organizations import OrganizationRecord, OrganizationStore
from service.errors import AlreadyExists, InvalidRequest, Unavailable
from service.logs import get_logger
from service.operations.rosters import Rosters

_NAME = re.compile(r"[a-z][a-z0-9-]{0,63}")
_ALLOWED = "must be 1 to 64 of the letters a-z, digits and hyphens, beginning with a letter"

_log = get_logger("operations.create_organization")


class CreateOrganization:
    """Makes organizations."""

    def __init__(self, organizations: OrganizationStore, rosters: Rosters) -> None:
        self._organizations = organizations
        self._rosters = rosters

    async def __call__(self, name: str) -> OrganizationRecord:
        """A new organization without coaches, calendars and keys.

        Raises InvalidRequest for a name that cannot be one, AlreadyExists, Unavailable or OutcomeUnknown. Once it is
        committed nothing fails: the first booking publishes a roster that Redis could not be told now.
        """
        if _NAME.fullmatch(name) is None:
            raise InvalidRequest([("name", _ALLOWED)])
        made = await self._organizations.add(name)
        if made is None:
            raise AlreadyExists(f"an organization is called {name!r} already", details={"field": "name"})
        try:
            await self._rosters.refresh(made.org, None)
        except Unavailable as problem:
            _log.warning("roster not published", org=made.org, error=problem.message)
        return made
