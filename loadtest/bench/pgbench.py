"""pgbench on the very table the service writes: the same appointment row one by one, or our own statement with one row.

The row's values are those of a real booking, but for what must differ. Coach and start are a permutation of all there
are, so that they are as random as the service's and none of them comes twice: every transaction inserts.
"""

from __future__ import annotations

import asyncio
import re
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import UUID

from loadtest.bench.setting import CONTACTS, DAYS, DURATION_MIN, STARTS_A_DAY, Crowd, first_midnight
from service.db.statements import statement

CLIENTS = 64
WARMING_EACH = 40
_LOGGED_US = 2  # of a line of its log; with a rate it counts from the scheduled start
_TPS = re.compile(r"^tps = ([\d.]+)", re.MULTILINE)
_DONE = re.compile(r"^number of transactions actually processed: (\d+)", re.MULTILINE)
_PARAMETER = re.compile(r"\$(\d+)")

_DRAW = """\
\\set n :n + 1
\\set k :base + :n * :clients + :client_id
\\set slot permute(:k, :slots, 42)
\\set coach :slot % :coaches
\\set begins :first + (:slot / :coaches) * :length
\\set ends :begins + :length
\\set day :begins / 86400
\\set contact random(0, :contacts - 1)
"""
_ID = "('01990000-0000-7000-8000-' || lpad(to_hex((:k)::bigint), 12, '0'))::uuid"
_CONTACT = "('00000000-0000-5000-8000-' || lpad((:contact)::text, 12, '0'))::uuid"
_BEGINS, _ENDS = "to_timestamp(:begins)", "to_timestamp(:ends)"
_DAY = "date '1970-01-01' + (:day)::integer"
_KEY = "'bench-key-' || (:k)::text"


@dataclass(frozen=True)
class Inserted:
    """A run of pgbench: transactions a second and in all; each inserted one appointment."""

    a_second: float
    transactions: int


class Baseline:
    """Two pgbench scripts made after the model of a real booking."""

    def __init__(self, binaries: Path, database_url: str, row: Any, event: Any, epoch: int) -> None:
        self._pgbench = binaries / "pgbench"
        self._url = database_url
        self.scripts = {"row": _DRAW + _row_script(row), "statement": _DRAW + _statement_script(row, event, epoch)}

    async def run(self, script: str, crowd: Crowd, seconds: float, each: int | None = None) -> Inserted:
        """Insert into the crowd's only organization, which must be empty, for so many seconds or `each` a client.

        Raises RuntimeError when a client failed.
        """
        warming = WARMING_EACH if each is None else 1
        await self._run(script, crowd, ["-t", str(warming)], base=0)
        limits = ["-T", f"{seconds:.0f}"] if each is None else ["-t", str(each)]
        return await self._run(script, crowd, limits, base=(warming + 1) * CLIENTS)

    async def latencies(self, script: str, crowd: Crowd, seconds: float, rate: float) -> list[float]:
        """Seconds that each of `rate` transactions a second took from its intended start.

        Raises RuntimeError when a client failed.
        """
        await self._run(script, crowd, ["-t", "1"], base=0)
        with tempfile.TemporaryDirectory() as folder:
            limits = ["-T", f"{seconds:.0f}", "--rate", f"{rate:.0f}", "-l", "--log-prefix", f"{folder}/log"]
            await self._run(script, crowd, limits, base=2 * CLIENTS)
            return _logged(Path(folder))

    async def _run(self, script: str, crowd: Crowd, limits: list[str], base: int) -> Inserted:
        given = {
            "n": 0,
            "base": base,
            "clients": CLIENTS,
            "slots": crowd.coaches * DAYS * STARTS_A_DAY,
            "coaches": crowd.coaches,
            "first": int(first_midnight().timestamp()),
            "length": DURATION_MIN * 60,
            "contacts": CONTACTS,
            "org": crowd.orgs[0],
        }
        with tempfile.NamedTemporaryFile("w", suffix=".sql") as file:
            file.write(self.scripts[script])
            file.flush()
            process = await asyncio.create_subprocess_exec(
                *(str(self._pgbench), "-n", "-M", "prepared", "-c", str(CLIENTS), "-j", "1", "-f", file.name, *limits),
                *(part for name, value in given.items() for part in ("-D", f"{name}={value}")),
                self._url,
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.STDOUT,
            )
            try:
                said, _ = await process.communicate()
            finally:
                if process.returncode is None:
                    process.kill()
        text = said.decode()
        tps, done = _TPS.search(text), _DONE.search(text)
        if process.returncode or "aborted" in text or tps is None or done is None:
            raise RuntimeError(f"pgbench failed:\n{text[:2000]}")
        return Inserted(float(tps[1]), int(done[1]))


async def baseline_after(binaries: Path, database_url: str, sql: Any, appointment_id: UUID) -> Baseline:
    """The scripts, with the values of that booking."""
    row = await sql.fetchrow("SELECT * FROM appointments WHERE appointment_id = $1", appointment_id)
    event = await sql.fetchrow("SELECT * FROM events WHERE appointment_id = $1", appointment_id)
    epoch = await sql.fetchval("SELECT epoch FROM gate")
    return Baseline(binaries, database_url, row, event, epoch)


async def add_contacts(sql: Any, crowd: Crowd) -> None:
    """The contacts that the plain row refers to."""
    await sql.execute(
        "INSERT INTO contacts (org_id, contact_id, email, created_at)"
        " SELECT $1, ('00000000-0000-5000-8000-' || lpad(n::text, 12, '0'))::uuid,"
        " 'contact-' || lpad(n::text, 5, '0') || '@example.com', now() FROM generate_series(0, $2 - 1) AS n",
        *(crowd.orgs[0], CONTACTS),
    )


def _logged(folder: Path) -> list[float]:
    """The seconds of every transaction in pgbench's logs."""
    lines = [line for file in folder.glob("log.*") for line in file.read_text().splitlines()]
    return [int(line.split()[_LOGGED_US]) / 1e6 for line in lines]


def _row_script(row: Any) -> str:
    """One appointment with every column a booking fills, and nothing beside it."""
    columns = (
        "org_id, appointment_id, calendar_no, coach_no, contact_id, contact_name, starts_at, ends_at, occupied,"
        " local_day, timezone, strategy, considered, notes, metadata, idempotency_key, fingerprint, created_at,"
        " updated_at"
    )
    values = [
        *(":org", _ID, str(row["calendar_no"]), ":coach", _CONTACT, _text(row["contact_name"]), _BEGINS, _ENDS),
        *(f"tstzrange({_BEGINS}, {_ENDS})", _DAY, _text(row["timezone"]), _text(row["strategy"])),
        *(str(row["considered"]), _text(row["notes"]), f"{_text(row['metadata'])}::json", _KEY),
        *(_bytes(row["fingerprint"]), "now()", "now()"),
    ]
    return f"INSERT INTO appointments ({columns}) VALUES ({', '.join(values)});\n"  # noqa: S608 - a row of our own


def _statement_script(row: Any, event: Any, epoch: int) -> str:
    """`commit_bookings` with arrays of one."""
    values = [
        *("(:org)::integer", _ID, f"{row['calendar_no']}::integer", "(:coach)::integer", _CONTACT),
        *("'contact-' || lpad((:contact)::text, 5, '0') || '@example.com'", _text(row["contact_name"])),
        *(_BEGINS, _ENDS, _BEGINS, _ENDS, _DAY, _text(row["timezone"]), _text(row["strategy"])),
        *(f"{row['considered']}::smallint", _text(row["notes"]), f"{_text(row['metadata'])}::json", _KEY),
        *(_bytes(row["fingerprint"]), "now()", _text(event["actor"]), _text(event["correlation_id"])),
        *(_bytes(event["considered"]), f"{_text(event['data'])}::json", f"{epoch}::bigint", "1::bigint"),
    ]
    text = "\n".join(line for line in statement("commit_bookings").splitlines() if not line.startswith("--"))
    return _PARAMETER.sub(lambda found: f"ARRAY[{values[int(found[1]) - 1]}]", text) + ";\n"


def _text(value: str | None) -> str:
    """A literal in which pgbench finds no variable of its own."""
    if value is None:
        return "NULL::text"
    plain = value.replace("\\", "\\\\").replace("'", "''").replace(":", "\\x3a")
    return f"E'{plain}'::text"


def _bytes(value: bytes) -> str:
    return f"'\\x{value.hex()}'::bytea"
