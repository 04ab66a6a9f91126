"""The scripts as the service runs them, watched: what each answered, and that it kept to declared keys."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff

from service.claims.script_files import script_folder
from service.claims.scripts import Argument, Key, Scripts

_USER = "declared-only"
_WORD = re.compile(r"^--   (\w+)  +(\S.*)$")


def outcomes_in_header(source: str) -> dict[str, str]:
    """The outcome words of a script's header with their meaning: the indented lines below `-- Reply`."""
    _, found, replies = source.split("\n\n", 1)[0].partition("\n-- Reply")
    assert found, "the header says nothing of the reply"
    words = (_WORD.match(line) for line in replies.splitlines())
    return {match[1]: match[2] for match in words if match}


def headers() -> dict[str, dict[str, str]]:
    """The outcomes of every script, by the script's name."""
    return {file.stem: outcomes_in_header(file.read_text()) for file in sorted(script_folder().glob("*.lua"))}


class RecordingScripts(Scripts):
    """Runs scripts as a user allowed the declared keys of each call; `seen` holds (script, outcome word)."""

    def __init__(self, admin: Redis, confined: Redis) -> None:
        super().__init__(confined)
        self._admin = admin
        self._confined = confined
        self._headers = headers()
        self.seen: set[tuple[str, str]] = set()

    @classmethod
    async def open(cls, admin: Redis, url: str) -> RecordingScripts:
        """The scripts on the server behind `admin`, reached again through `url` as the confined user."""
        await admin.execute_command("ACL", "SETUSER", _USER, "reset", "on", f">{_USER}", "+@all")
        confined = Redis.from_url(
            url, username=_USER, password=_USER, protocol=2, retry=Retry(NoBackoff(), 0), socket_timeout=5.0
        )
        return cls(admin, confined)

    async def close(self) -> None:
        """Close the confined user's connections."""
        await self._confined.aclose()

    async def _run(self, name: str, keys: Sequence[Key], arguments: Sequence[Argument]) -> Any:
        allowed = [f"~{key}" for key in keys]
        await self._admin.execute_command("ACL", "SETUSER", _USER, "resetkeys", *allowed)
        reply = await super()._run(name, keys, arguments)
        for word in self._words(name, reply):
            assert word in self._headers[name], f"{name} answered {word!r}, which its header does not know"
            self.seen.add((name, word))
        return reply

    @staticmethod
    def _words(name: str, reply: Any) -> list[str]:
        if name in {"claim_slot", "still_taken"}:
            return [item[0].decode() for item in reply]
        if name in {"settle_claim", "release_claim"}:
            return [item.decode() for item in reply]
        return [reply[0].decode()]
