"""The timeline of runs as an SVG: answers a second, and below them the faults as bars. One panel a run."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from xml.sax.saxutils import escape

from tests.faults.history import FaultSpan
from tests.faults.run import Result

_LEFT, _WIDTH, _HEIGHT = 60, 1100, 180
_MARGIN = 150  # the name of a fault at the end
_LANE, _LETTER = 15, 5.6
_GAP = 70
_LINES = {"ok": "#2a7f3f", "refused": "#d08a00", "failed": "#c02020"}
_PARTS = (("api", "#5b7fb5"), ("worker", "#7d6bb0"), ("redis", "#b5605b"), ("postgres", "#4f8f8b"), ("crm", "#9a8a4a"))
_OTHER = "#808080"


def draw_timeline(results: Sequence[Result]) -> str:
    """The whole drawing."""
    parts: list[str] = []
    top = 10.0
    for result in results:
        drawn, height = _panel(result, top)
        parts += drawn
        top += height + _GAP
    size = f'width="{_LEFT + _WIDTH + _MARGIN}" height="{top:.0f}"'
    head = f'<svg xmlns="http://www.w3.org/2000/svg" {size} font-family="sans-serif" font-size="11">'
    return "\n".join([head, '<rect width="100%" height="100%" fill="white"/>', *parts, "</svg>"]) + "\n"


def _panel(result: Result, top: float) -> tuple[list[str], float]:
    series = result.history.answered_per_second()
    first, last = int(result.began), int(result.ended) + 1
    per_second = _WIDTH / max(last - first, 1)
    most = max([1, *(count for line in series.values() for count in line.values())])
    floor = top + 20 + _HEIGHT
    drawn = [
        _text(_LEFT, top + 12, f"seed {result.seed}: answers a second", weight="bold"),
        *(_text(_LEFT + 260 + 90 * at, top + 12, name, fill=_LINES[name]) for at, name in enumerate(_LINES)),
        _text(_LEFT - 8, floor - _HEIGHT + 4, str(most), anchor="end"),
        _text(_LEFT - 8, floor, "0", anchor="end"),
        f'<path d="M{_LEFT} {floor - _HEIGHT}V{floor}H{_LEFT + _WIDTH}" fill="none" stroke="#404040"/>',
    ]
    for second in range(0, last - first, 10):
        at = _LEFT + second * per_second
        drawn.append(f'<path d="M{at:.1f} {floor}v4" stroke="#404040"/>')
        drawn.append(_text(at, floor + 15, f"{second} s", anchor="middle"))
    for name, colour in _LINES.items():
        drawn.append(_line(series[name], range(first, last), (per_second, _HEIGHT / most, floor), colour))
    bars, lanes = _bars(result.spans, result.began, per_second, floor + 24)
    return drawn + bars, floor + 24 + lanes * _LANE - top


def _line(counts: Mapping[int, int], seconds: range, scale: tuple[float, float, float], colour: str) -> str:
    per_second, per_answer, floor = scale
    counts = Counter(counts)
    points = " ".join(
        f"{_LEFT + (second - seconds.start) * per_second:.1f},{floor - counts[second] * per_answer:.1f}"
        for second in seconds
    )
    return f'<polyline points="{points}" fill="none" stroke="{colour}" stroke-width="1.5"/>'


def _bars(spans: Sequence[FaultSpan], began: float, per_second: float, top: float) -> tuple[list[str], int]:
    """Each fault in the first lane where it and its name have room; also how many lanes there are."""
    ends: list[float] = []
    drawn: list[str] = []
    for span in sorted(spans, key=lambda span: span.began):
        left = _LEFT + (span.began - began) * per_second
        width = max((span.healed - span.began) * per_second, 2.0)
        lane = next((number for number, end in enumerate(ends) if end <= left), len(ends))
        ends[lane : lane + 1] = [left + width + 6 + _LETTER * len(span.name)]
        line = top + lane * _LANE
        edge = "" if span.reached else ' stroke="#c02020" stroke-dasharray="3 2"'
        title = escape(f"{span.name}: {span.note}")
        drawn.append(
            f'<rect x="{left:.1f}" y="{line:.1f}" width="{width:.1f}" height="{_LANE - 4}" fill="{_colour(span.name)}"'
            f"{edge}><title>{title}</title></rect>"
        )
        drawn.append(_text(left + width + 3, line + _LANE - 6, span.name))
    return drawn, len(ends)


def _colour(name: str) -> str:
    return next((colour for part, colour in _PARTS if part in name), _OTHER)


def _text(
    x: float, y: float, words: str, *, anchor: str = "start", fill: str = "#202020", weight: str = "normal"
) -> str:
    return (
        f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" fill="{fill}" font-weight="{weight}">'
        f"{escape(words)}</text>"
    )
