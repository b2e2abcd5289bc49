"""Line charts as SVG text: sharp at any size, and in the colours of the page around them."""

from __future__ import annotations

import html
import math
from collections.abc import Mapping, Sequence

WIDTH, HEIGHT = 520, 260
LEFT, RIGHT, TOP, BOTTOM = 56, 12, 12, 32
COLORS = 6
"""The page's style sheet has classes c0 to c5."""
DOTS = 60
"""Up to so many points of a line are marked, with their values to hover over."""

Points = Sequence[tuple[float, float]]


def line_chart(title: str, lines: Mapping[str, Points], x_title: str = "epoch") -> str:
    """A <figure> with the lines over each other; points that are not finite are left out.

    Empty where there is nothing to draw.
    """
    lines = {name: _finite(points) for name, points in lines.items()}
    lines = {name: points for name, points in lines.items() if points}
    if not lines:
        return ""
    xs, ys = zip(*(point for points in lines.values() for point in points), strict=True)
    x_ticks, y_ticks = ticks(min(xs), max(xs)), ticks(min(ys), max(ys))
    scale = _Scale((x_ticks[0], x_ticks[-1]), (y_ticks[0], y_ticks[-1]))
    parts = [*_grid(scale, x_ticks, y_ticks, x_title)]
    for number, (name, points) in enumerate(lines.items()):
        parts += _line(scale, name, points, f"c{number % COLORS}")
    keys = "".join(
        f'<li><span class="c{n % COLORS}"></span>{html.escape(name)} '
        f"<b>{points[-1][1]:.4g}</b></li>"
        for n, (name, points) in enumerate(lines.items())
    )
    label = html.escape(title)
    return (
        f'<figure class="chart"><figcaption>{label}</figcaption>'
        f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{label}">'
        f'{"".join(parts)}</svg><ul class="keys">{keys}</ul></figure>'
    )


def ticks(low: float, high: float, about: int = 5) -> list[float]:
    """Round numbers, evenly spaced, from at most `low` to at least `high`."""
    if high <= low:
        low, high = low - (abs(low) or 1) / 2, high + (abs(high) or 1) / 2
    rough = (high - low) / about
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(power * m for m in (1, 2, 2.5, 5, 10) if power * m >= rough * (1 - 1e-9))
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [round(n * step, 12) for n in range(first, last + 1)]


class _Scale:
    """From values to places in the picture."""

    def __init__(self, x: tuple[float, float], y: tuple[float, float]) -> None:
        self.x_range, self.y_range = x, y

    def x(self, value: float) -> float:
        low, high = self.x_range
        return LEFT + (value - low) / (high - low) * (WIDTH - LEFT - RIGHT)

    def y(self, value: float) -> float:
        low, high = self.y_range
        return HEIGHT - BOTTOM - (value - low) / (high - low) * (HEIGHT - TOP - BOTTOM)


def _grid(
    scale: _Scale, x_ticks: Sequence[float], y_ticks: Sequence[float], x_title: str
) -> list[str]:
    right, bottom = WIDTH - RIGHT, HEIGHT - BOTTOM
    parts = [
        f'<line class="grid" x1="{LEFT}" x2="{right}" y1="{scale.y(t):.1f}" y2="{scale.y(t):.1f}"/>'
        f'<text x="{LEFT - 6}" y="{scale.y(t) + 4:.1f}" text-anchor="end">{t:.4g}</text>'
        for t in y_ticks
    ]
    parts += [
        f'<text x="{scale.x(t):.1f}" y="{bottom + 16}" text-anchor="middle">{t:.4g}</text>'
        for t in x_ticks
    ]
    middle = (LEFT + right) / 2
    label = html.escape(x_title)
    return [*parts, f'<text x="{middle}" y="{HEIGHT - 2}" text-anchor="middle">{label}</text>']


def _line(scale: _Scale, name: str, points: Points, color: str) -> list[str]:
    places = [(scale.x(x), scale.y(y)) for x, y in points]
    path = " ".join(f"{x:.1f},{y:.1f}" for x, y in places)
    parts = [f'<polyline class="{color}" points="{path}"/>']
    if len(points) <= DOTS:
        parts += [
            f'<circle class="{color}" cx="{px:.1f}" cy="{py:.1f}" r="2.5">'
            f"<title>{html.escape(name)} at {x:.4g}: {y:.6g}</title></circle>"
            for (px, py), (x, y) in zip(places, points, strict=True)
        ]
    return parts


def _finite(points: Points) -> list[tuple[float, float]]:
    return [(x, y) for x, y in points if math.isfinite(x) and math.isfinite(y)]
