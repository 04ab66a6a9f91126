"""The promise: a standstill shows, a lie is a failure by name, and a refusal is neither.

The service is a stub, since a real one must do none of this.
"""

from __future__ import annotations

from pathlib import Path

from tests.load.running import Ended, run_load
from tests.load.stub import LIES, Stub, serving

LENIENT = "*=60000/60000"


async def load_on(stub: Stub, folder: Path, *words: str) -> Ended:
    return await run_load(folder, "--host", stub.url, *words, KEY="any")


async def test_a_second_of_standstill_shows_in_far_more_journeys_than_requests_met_it(folder: Path) -> None:
    stub = Stub(stall_at=60, stall_s=1.0)
    limits = f"{LENIENT},JOURNEY browser=500/60000"
    async with serving(stub):
        ended = await load_on(stub, folder, "--users", "4", "--seconds", "6", "--pace", "0.1", "--limits", limits)

    assert 1 <= stub.held <= 8, "a user that waits sends nothing else"
    requests = [row for name, row in ended.rows.items() if not name.startswith("JOURNEY")]
    assert max(row["most_ms"] for row in requests) >= 1000
    journeys = [row for name, row in ended.rows.items() if name.startswith("JOURNEY")]
    # One in twenty of such a row took half a second or longer: who met it, and who fell due meanwhile.
    late = sum(row["count"] / 20 for row in journeys if row["p95_ms"] >= 500)
    assert late > stub.held, ended.out
    assert ended.rows["JOURNEY browser"]["wrong"] == ["p95 TOO LONG"]
    assert (ended.code, ended.verdict["holds"], ended.verdict["wrong"]) == (1, False, []), ended.out


async def test_each_lie_is_a_failure_that_names_the_promise(folder: Path) -> None:
    async with serving(Stub(lies=LIES)) as stub:
        ended = await load_on(stub, folder, "--users", "11", "--seconds", "3", "--pace", "0.2", "--limits", LENIENT)

    assert ended.code == 1
    assert {
        "an appointment starts when it was wished",
        "the coach is of the calendar's team",
        "a replay is the first answer, byte for byte",
        "a replay says that it is one",
    } <= set(ended.verdict["broken"]), ended.out
    assert ended.rows["POST /api/appointments"]["failures"] > 0
    assert ended.rows["POST /api/appointments again"]["failures"] > 0
    # Its one coach is booked again and again.
    assert "at once" in " ".join(ended.read("verify.json")["wrong"])


async def test_a_full_calendar_is_an_outcome_with_a_name(folder: Path) -> None:
    async with serving(Stub(refusal=(409, "SLOT_UNAVAILABLE", None))) as stub:
        ended = await load_on(stub, folder, "--users", "11", "--seconds", "1", "--limits", LENIENT)

    row = ended.rows["POST /api/appointments [409 SLOT_UNAVAILABLE]"]
    assert row["count"] > 0
    assert row["failures"] == 0
    assert "POST /api/appointments" not in ended.rows
    # But a run in which nothing was booked has shown nothing.
    assert (ended.code, ended.verdict["wrong"]) == (1, ["nothing was booked"])


async def test_who_is_told_to_wait_a_minute_does_not_ask_again_meanwhile(folder: Path) -> None:
    async with serving(Stub(refusal=(429, "RATE_LIMIT_EXCEEDED", "60"))) as stub:
        ended = await load_on(stub, folder, "--users", "11", "--seconds", "2", "--pace", "0.1", "--limits", LENIENT)

    row = ended.rows["POST /api/appointments [429 RATE_LIMIT_EXCEEDED]"]
    assert row["failures"] == 0
    # Seven of the eleven book, two of them with a second request where they left the first.
    assert 1 <= stub.asked["POST"] <= 9
    assert ended.verdict["wrong"] == ["nothing was booked"]


async def test_too_much_503_passes_a_threshold_of_its_own(folder: Path) -> None:
    async with serving(Stub(refusal=(503, "SERVICE_UNAVAILABLE", "1"))) as stub:
        ended = await load_on(stub, folder, "--users", "11", "--seconds", "2", "--limits", LENIENT)

    assert ended.rows["POST /api/appointments [503 SERVICE_UNAVAILABLE]"]["failures"] == 0
    assert ended.code == 1
    assert any("answered 503, more than 1.00%" in what for what in ended.verdict["wrong"]), ended.out


async def test_a_503_that_names_no_time_is_a_failure(folder: Path) -> None:
    async with serving(Stub(refusal=(503, "SERVICE_UNAVAILABLE", None))) as stub:
        ended = await load_on(stub, folder, "--users", "11", "--seconds", "1", "--limits", LENIENT)

    assert ended.code == 1
    assert ended.rows["POST /api/appointments"]["failures"] > 0
