"""What a fault run says of itself: totals, faults against checks, rare paths, and every finding in words."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path

from tests.faults.checks import CHECKS, Finding
from tests.faults.drawing import draw_timeline
from tests.faults.history import FaultSpan
from tests.faults.run import Result

# A request that began so long after the heal, or had not been answered so long before the fault, is not of the fault.
AFTERMATH_S = 5.0
WHOLE_RUN = "the whole run"
_SHOWN = 12


def write_report(folder: Path, facts: Sequence[str], results: Sequence[Result], rare: Counter[str] | None) -> None:
    """`report.md` and `timeline.svg` in `folder`; `facts` are lines on how it was run."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "report.md").write_text(report(facts, results, rare))
    (folder / "timeline.svg").write_text(draw_timeline(results))


def report(facts: Sequence[str], results: Sequence[Result], rare: Counter[str] | None) -> str:
    """The whole report as Markdown; `rare` is None for a run too short to take every path."""
    parts = ["# Fault run", "", *(f"- {fact}" for fact in facts), "", "## What happened", "", *_totals(results), ""]
    parts += ["![Answers a second, and the faults](timeline.svg)", ""]
    parts += ["## Faults and checks", "", *fault_table(results), ""]
    if rare is not None:
        parts += ["## Rare paths", "", *_table(["path", "taken"], [[f"`{n}`", str(c)] for n, c in rare.items()]), ""]
    parts += ["## Findings", "", *_findings(results), ""]
    return "\n".join(parts)


def fault_table(results: Sequence[Result]) -> list[str]:
    """One row a fault, one column a check: how many findings have an operation during the fault or just after it."""
    spans: dict[str, list[FaultSpan]] = defaultdict(list)
    counts: dict[str, Counter[str]] = defaultdict(Counter)
    for result in results:
        for span in result.spans:
            spans[span.name].append(span)
        for finding in _all(result):
            for name in _faults_of(finding, result) or [WHOLE_RUN]:
                counts[name][finding.check] += 1
    rows = [
        [
            name,
            str(len(found)),
            f"{sum(span.healed - span.began for span in found):.0f}",
            str(sum(span.reached for span in found)),
            *_cells(counts[name]),
        ]
        for name, found in sorted(spans.items())
    ]
    rows.append([WHOLE_RUN, "", f"{sum(one.ended - one.began for one in results):.0f}", "", *_cells(counts[WHOLE_RUN])])
    return _table(["fault", "times", "seconds", "reached", *CHECKS], rows)


def _cells(counts: Counter[str]) -> list[str]:
    return [str(counts[check]) if counts[check] else "ok" for check in CHECKS]


def _faults_of(finding: Finding, result: Result) -> list[str]:
    operations = [result.history.operations[number] for number in finding.operations]
    return sorted(
        {
            span.name
            for span in result.spans
            for one in operations
            if one.invoked < span.healed + AFTERMATH_S and (one.answered or one.invoked + AFTERMATH_S) > span.began
        }
    )


def _totals(results: Sequence[Result]) -> list[str]:
    names = list(results[0].totals()) if results else []
    rows = [
        [
            str(result.seed),
            f"{result.ended - result.began:.0f}",
            *(str(result.totals()[name]) for name in names),
            f"{result.quiet_s:.1f}",
            "holds" if result.holds else "FAILS",
        ]
        for result in results
    ]
    if len(results) > 1:
        whole = sum((result.totals() for result in results), Counter())
        seconds = sum(result.ended - result.began for result in results)
        holds = "holds" if all(result.holds for result in results) else "FAILS"
        rows.append(["all", f"{seconds:.0f}", *(str(whole[name]) for name in names), "", holds])
    return _table(["seed", "seconds", *names, "quiet after s", "checks"], rows)


def _findings(results: Sequence[Result]) -> list[str]:
    lines: list[str] = []
    for result in results:
        lines += [f"- seed {result.seed}: {span.name} was not reached: {span.note}" for span in result.unreached]
        for check in CHECKS:
            found = result.findings[check]
            lines += [f"- seed {result.seed}, {one.check}: {one.what} {_numbers(one)}" for one in found[:_SHOWN]]
            if len(found) > _SHOWN:
                lines.append(f"- seed {result.seed}, {check}: and {len(found) - _SHOWN} more")
        lines += [f"- seed {result.seed}, the grid: {line}" for line in result.differences]
    return lines or ["None."]


def _numbers(finding: Finding) -> str:
    return f"(operations {', '.join(map(str, finding.operations))})" if finding.operations else ""


def _all(result: Result) -> Iterable[Finding]:
    return (finding for found in result.findings.values() for finding in found)


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    """A Markdown table whose columns are as wide as they must be: it is read in a terminal too."""
    lines = [list(head), *map(list, rows)]
    widths = [max(len(line[column]) for line in lines) for column in range(len(head))]
    drawn = [
        "| " + " | ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)) + " |" for line in lines
    ]
    return [drawn[0], "| " + " | ".join("-" * width for width in widths) + " |", *drawn[1:]]
