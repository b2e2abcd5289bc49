"""Line charts as SVG within a page: in its colours, light and dark, with values to hover over."""

from __future__ import annotations

import io
import re
from collections.abc import Mapping, Sequence
from typing import NamedTuple
from xml.etree import ElementTree

import matplotlib
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

Points = Sequence[tuple[float, float]]

COLORS = 6
"""Lines are drawn in --c0 to --c5 of the page's style sheet, then in --c0 again, dashed."""
DASHES = {"solid": "-", "dashed": "--", "dotted": ":"}
"""By name in CSS."""
MARKED = 60
"""Lines of at most this many points have a marker on each point, which shows its value."""
LARGEST = 1e301
"""Larger values are left out: the length of their axis may overflow."""

_WIDTH, _HEIGHT = 480, 260
FONT_SIZE = 14
"""Of all text, in units of _WIDTH; a phone shows charts at 0.7 of their width."""
# matplotlib knows no CSS variables: these colours stand in for them until `_follow_page`.
_LINE, _RULE = "#0000f{}", "#00000f"
_STYLE = {
    "axes.xmargin": 0,
    "axes.ymargin": 0,
    "figure.constrained_layout.use": True,
    "font.size": FONT_SIZE,
    "axes.labelsize": FONT_SIZE,
    "xtick.labelsize": FONT_SIZE,
    "ytick.labelsize": FONT_SIZE,
    "svg.fonttype": "none",
    "xtick.bottom": False,
    "ytick.left": False,
}
_NO_METADATA = dict.fromkeys(("Creator", "Date", "Format", "Type"))


class Line(NamedTuple):
    """A line of a chart, and its entry in the legend."""

    name: str
    number: int
    """Which colour and dashes it has."""
    points: Points

    @property
    def last(self) -> float:
        """The last value."""
        return self.points[-1][1]

    @property
    def color(self) -> str:
        """Its colour in CSS."""
        return f"var(--c{self.number % COLORS})"

    @property
    def dash(self) -> str:
        """Its dashes: see DASHES."""
        return list(DASHES)[self.number // COLORS % len(DASHES)]


class Chart(NamedTuple):
    """A chart, and what the page writes around it."""

    title: str
    svg: str
    lines: tuple[Line, ...]


def line_chart(title: str, lines: Mapping[str, Points], y_label: str) -> list[Chart]:
    """Draw lines over epochs, without the points that are not finite.

    Nothing is drawn of a line without points, but its colour is not given to another: runs keep
    theirs in all charts. Return the chart in a list, which is empty if there is nothing to draw.
    """
    drawable = (
        Line(name, number, [(x, y) for x, y in points if abs(x) < LARGEST and abs(y) < LARGEST])
        for number, (name, points) in enumerate(lines.items())
    )
    drawn = tuple(line for line in drawable if line.points)
    if not drawn:
        return []
    # Ids in the SVG follow from this salt: the same in each run, and different in each chart.
    with matplotlib.rc_context({**_STYLE, "svg.hashsalt": repr((title, drawn))}):
        svg = _follow_page(_svg_of(draw(drawn, y_label)), title, drawn)
    return [Chart(title, svg, drawn)]


def draw(lines: Sequence[Line], y_label: str) -> Figure:
    """Return a figure in which the artist with the id "line 0" is the line of number 0."""
    figure = Figure((_WIDTH / 72, _HEIGHT / 72), frameon=False)  # an SVG has 72 dots per inch
    axes = figure.add_subplot(frame_on=False)
    for line in lines:
        axes.plot(
            *zip(*line.points, strict=True), marker="o" if len(line.points) <= MARKED else "",
            markersize=5, linewidth=2, color=_LINE.format(line.number % COLORS),
            linestyle=DASHES[line.dash], gid=f"line {line.number}", clip_on=False,
        )  # fmt: skip
    axes.set_xlabel("epoch")
    axes.set_ylabel(y_label, parse_math=False)
    axes.grid(axis="y", color=_RULE, linewidth=1, clip_on=False)
    for axis, whole in ((axes.xaxis, True), (axes.yaxis, False)):
        ticks = MaxNLocator(6, steps=[1, 2, 2.5, 5, 10], integer=whole, min_n_ticks=1)
        axis.set_ticks(ticks.tick_values(*axis.get_view_interval()))  # around all points
        axis.set_major_formatter("{x:.8g}")
    return figure


def _svg_of(figure: Figure) -> str:
    file = io.StringIO()
    FigureCanvasSVG(figure).print_svg(file, metadata=_NO_METADATA)
    return file.getvalue()


def _follow_page(svg: str, title: str, lines: Sequence[Line]) -> str:
    """Leave colours and fonts to the page's style sheet; add a title, and the values of points."""
    # Within HTML no namespaces are needed, and their names look like links to elsewhere.
    svg = re.sub(r' xmlns(:xlink)?="[^"]*"|xlink:|font(-size|-family)?: [^;]*; ', "", svg)
    svg = re.sub(r"#0000f(\d)", r"var(--c\1)", svg).replace(_RULE, "var(--rule)")
    root = ElementTree.fromstring(svg[svg.index("<svg") :])
    root.remove(root.find("defs"))  # a style sheet, which would apply to all of the page
    root.attrib = {"viewBox": root.get("viewBox"), "role": "img", "aria-label": title}
    groups = {group.attrib.pop("id", ""): group for group in root.iter("g")}
    for line in lines:
        markers = groups[f"line {line.number}"].iter("use")
        # strict=False: a line without markers has nothing to label.
        for marker, (x, y) in zip(markers, line.points, strict=False):
            ElementTree.SubElement(marker, "title").text = f"{line.name} at {x:.4g}: {y:.6g}"
    return ElementTree.tostring(root, encoding="unicode")
