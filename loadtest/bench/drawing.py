"""The drawings of a report, as SVG: how far each goal is reached, and latencies by their share of answers."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from xml.sax.saxutils import escape

_LABELS, _WIDTH, _MARGIN = 430, 420, 70
_LANE, _BAR = 24, 14
_MOST = 2.0  # a bar ends here: twice the goal
_REACHED, _MISSED = "#2a7f3f", "#c02020"
_COLOURS = ("#2f62a3", "#d08a00")
_HEIGHT, _TOP, _LEFT, _STEP = 260, 40, 70, 150


def draw_goals(shares: Sequence[tuple[str, float]]) -> str:
    """A bar a goal; at the line it is just reached."""
    floor = _TOP + _LANE * len(shares)
    goal = _LABELS + _WIDTH / _MOST
    drawn = [_text(_LABELS, 20, "Share of the goal that is reached (a bar ends at twice the goal)", weight="bold")]
    for lane, (name, share) in enumerate(shares):
        top = _TOP + _LANE * lane
        width = max(1.0, min(share, _MOST) / _MOST * _WIDTH)
        colour = _REACHED if share >= 1 else _MISSED
        drawn += [
            _text(_LABELS - 8, top + _BAR - 3, name, anchor="end"),
            f'<rect x="{_LABELS}" y="{top}" width="{width:.1f}" height="{_BAR}" fill="{colour}"/>',
            _text(_LABELS + width + 6, top + _BAR - 3, f"{share:.2f}"),
        ]
    drawn.append(f'<path d="M{goal} {_TOP - 8}V{floor}" stroke="#202020" stroke-dasharray="4 3"/>')
    drawn.append(_text(goal, floor + 14, "goal", anchor="middle"))
    return _svg(_LABELS + _WIDTH + _MARGIN, floor + 24, drawn)


def draw_latencies(lines: Mapping[str, Sequence[tuple[str, float]]]) -> str:
    """Milliseconds by share of answers, on a logarithmic scale; a line each of what is compared."""
    values = [value for line in lines.values() for _, value in line]
    low, high = math.floor(math.log10(min(values))), math.ceil(math.log10(max(values)))
    high = max(high, low + 1)
    floor = _TOP + _HEIGHT
    shares = [share for share, _ in next(iter(lines.values()))]
    right = _LEFT + _STEP * len(shares)

    def y_of(value: float) -> float:
        return floor - (math.log10(value) - low) / (high - low) * _HEIGHT

    drawn = [_text(_LEFT, 20, "Latency from the intended start, milliseconds", weight="bold")]
    for power in range(low, high + 1):
        drawn.append(f'<path d="M{_LEFT} {y_of(10**power):.1f}H{right}" stroke="#d0d0d0"/>')
        drawn.append(_text(_LEFT - 8, y_of(10**power) + 4, f"{10**power:g}", anchor="end"))
    for at, share in enumerate(shares):
        drawn.append(_text(_LEFT + _STEP * (at + 0.5), floor + 16, share, anchor="middle"))
    for number, (name, line) in enumerate(lines.items()):
        colour = _COLOURS[number % len(_COLOURS)]
        places = [(_LEFT + _STEP * (at + 0.5), y_of(value), value) for at, (_, value) in enumerate(line)]
        points = " ".join(f"{x:.1f},{y:.1f}" for x, y, _ in places)
        drawn.append(f'<polyline points="{points}" fill="none" stroke="{colour}" stroke-width="2"/>')
        drawn += [f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3" fill="{colour}"/>' for x, y, _ in places]
        drawn += [_text(x + 6, y - 6, f"{value:.3g}", fill=colour) for x, y, value in places]
        drawn.append(_text(_LEFT + 330 + 90 * number, 20, name, fill=colour))
    return _svg(right + 30, floor + 30, drawn)


def _svg(width: float, height: float, drawn: Sequence[str]) -> str:
    size = f'width="{width:.0f}" height="{height:.0f}"'
    head = f'<svg xmlns="http://www.w3.org/2000/svg" {size} font-family="sans-serif" font-size="11">'
    return "\n".join([head, '<rect width="100%" height="100%" fill="white"/>', *drawn, "</svg>"]) + "\n"


def _text(
    x: float, y: float, words: str, *, anchor: str = "start", fill: str = "#202020", weight: str = "normal"
) -> str:
    return (
        f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" fill="{fill}" font-weight="{weight}">'
        f"{escape(words)}</text>"
    )
