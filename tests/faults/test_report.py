"""The report blames the fault that a finding lies in, hides nothing, and its drawing is a drawing."""

from __future__ import annotations

from collections import Counter
from xml.etree import ElementTree

from tests.faults.checks import CHECKS
from tests.faults.drawing import draw_timeline
from tests.faults.final import Final
from tests.faults.findings import Finding
from tests.faults.history import FaultSpan, History
from tests.faults.rare import RARE, rare_paths
from tests.faults.report import WHOLE_RUN, fault_table, report
from tests.faults.run import Result


def result_of(*findings: Finding, reached: bool = True) -> Result:
    """Twenty seconds with a request a second, and two faults in them."""
    history = History()
    for second in range(20):
        operation = history.begin(0, "north", "book", {})
        operation.invoked = 100.0 + second
        if second != 8:
            history.end(operation, 201 if second % 2 else 503, {"error": "SERVICE_UNAVAILABLE"}, {})
            operation.answered = 100.2 + second
    spans = [
        FaultSpan("kill_redis", 101.0, 103.0, reached=True, note="1 new run id"),
        FaultSpan("crm_<reset>", 110.0, 112.0, reached=reached, note="2 connections reset"),
    ]
    found = {check: [one for one in findings if one.check == check] for check in CHECKS}
    return Result(7, "PostgreSQL, Redis", 100.0, 120.0, 0.5, history, spans, Final(), found, ["a cell"])


def row_of(result: Result, name: str) -> list[str]:
    """The cells of one row of the table."""
    (line,) = (line for line in fault_table([result]) if line.startswith(f"| {name} "))
    return [cell.strip() for cell in line.strip("| ").split("|")]


def test_a_finding_is_counted_where_its_operations_lie() -> None:
    result = result_of(Finding("C3", "left something", (2,)), Finding("C9", "differs"))
    assert not result.holds
    assert row_of(result, "kill_redis") == ["kill_redis", "1", "2", "1", *("1" if c == "C3" else "ok" for c in CHECKS)]
    assert row_of(result, "crm_<reset>")[4:] == ["ok"] * len(CHECKS)
    assert row_of(result, WHOLE_RUN)[4:] == ["1" if check == "C9" else "ok" for check in CHECKS]


def test_a_request_long_after_the_heal_is_nobodys() -> None:
    result = result_of(Finding("C6", "no reason", (18,)))
    assert row_of(result, "crm_<reset>")[4:] == ["ok"] * len(CHECKS)
    assert row_of(result, WHOLE_RUN)[4:].count("1") == 1


def test_a_request_that_was_not_answered_is_of_the_fault_that_came_after_it() -> None:
    assert row_of(result_of(Finding("C2", "gone", (8,))), "crm_<reset>")[4:].count("1") == 1


def test_a_fault_that_nothing_met_fails_the_run_and_is_named() -> None:
    result = result_of(reached=False)
    assert not result.holds
    assert "crm_<reset> was not reached" in report([], [result], None)
    assert result_of().holds


def test_the_report_tells_totals_rare_paths_and_every_difference() -> None:
    rare = rare_paths([Final(metrics={("booking_unsettled_total", ()): 3.0})])
    assert rare["booking_unsettled_total"] == 3
    assert len(rare) == len(RARE)
    assert min(rare.values()) == 0, "a path that was never taken is not forgotten"
    text = report(["commit abc"], [result_of(), result_of()], rare)
    assert "`booking_unsettled_total`" in text
    assert "the grid: a cell" in text
    assert "commit abc" in text
    totals = result_of().totals()
    expected = Counter(
        operations=20, faults=2, **{"2xx and 3xx": 10, "409": 0, "503": 9, "unanswered": 1, "unknown": 1}
    )
    assert totals == expected
    assert any("40" in line and line.startswith("| all") for line in text.splitlines())


def test_the_drawing_has_a_bar_and_a_name_for_each_fault_and_a_line_for_each_kind_of_answer() -> None:
    drawn = draw_timeline([result_of(), result_of(reached=False)])
    root = ElementTree.fromstring(drawn)  # noqa: S314 - our own drawing
    space = "{http://www.w3.org/2000/svg}"
    assert len(root.findall(f"{space}polyline")) == 6
    bars = [bar for bar in root.findall(f"{space}rect") if bar.find(f"{space}title") is not None]
    assert len(bars) == 4
    assert sum("stroke-dasharray" in bar.attrib for bar in bars) == 1, "what was not reached is marked"
    assert [text.text for text in root.findall(f"{space}text")].count("crm_<reset>") == 2
