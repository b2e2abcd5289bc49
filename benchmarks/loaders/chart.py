"""The README's bar chart of loaders, as SVG for light and dark pages, and its conditions."""

from __future__ import annotations

from collections.abc import Mapping
from html import escape

BARS = {
    "native": "FastIMAE",
    "ffcv_library": "FFCV",
    "dali_linear": "DALI on the CPU, cheaper filter",
    "dali": "DALI on the CPU",
    "spdl": "SPDL",
    "simplejpeg": "DataLoader with simplejpeg",
    "torchcodec": "DataLoader with torchcodec",
    "torchvision_tensor": "torchvision, resize of tensors",
    "torchvision": "torchvision with Pillow",
}
"""Names on the page, by back end; those that a report lacks have no bar."""
COLOURS = {
    "light": {"text": "#1f2328", "ours": "#3f51b5", "others": "#afb8c1"},
    "dark": {"text": "#e6edf3", "ours": "#8c9eff", "others": "#57606a"},
}
LABEL, PLOT, ROW, BAR = 262, 330, 30, 20
"""Pixels: width of the names, length of the longest bar, distance and height of bars."""
WIDTH = LABEL + PLOT + 58


def charts(report: Mapping) -> dict[str, str]:
    """Draw the chart for light and for dark pages: SVG by name of the scheme."""
    return {scheme: chart(report, colours) for scheme, colours in COLOURS.items()}


def chart(report: Mapping, colours: Mapping[str, str]) -> str:
    """Draw a bar for each loader of a report, fastest first. Only numbers and names differ."""
    speeds = {row["backend"]: row["img_per_s"] for row in report["results"]}
    bars = sorted(((speeds[name], name) for name in BARS if name in speeds), reverse=True)
    height = ROW * len(bars)
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" width="{WIDTH}" '
        f'height="{height}" font-family="system-ui, sans-serif" font-size="15" '
        f'fill="{colours["text"]}">',
        "<title>Images per second by loader</title>",
    ]
    for number, (speed, name) in enumerate(bars):
        lines += _bar(number * ROW, speed, bars[0][0], name, colours)
    return "\n".join([*lines, "</svg>\n"])


def _bar(top: int, speed: float, fastest: float, name: str, colours: Mapping) -> list[str]:
    """Draw the name, the bar and the speed of a loader, from `top` pixels on."""
    ours = name == "native"
    length = PLOT * speed / fastest
    weight = ' font-weight="bold"' if ours else ""
    middle = top + ROW / 2 + 5
    return [
        f'<text x="{LABEL - 10}" y="{middle:g}" text-anchor="end"{weight}>'
        f"{escape(BARS[name])}</text>",
        f'<rect x="{LABEL}" y="{top + (ROW - BAR) // 2}" width="{length:.1f}" height="{BAR}" '
        f'rx="3" fill="{colours["ours" if ours else "others"]}"/>',
        f'<text x="{LABEL + length + 8:.1f}" y="{middle:g}"{weight}>{speed:.0f}</text>',
    ]


def chart_line(report: Mapping) -> str:
    """State in one line what the chart shows, and the conditions it was measured under."""
    settings, images = report["settings"], report["sets"]["beton"]
    height, width = settings["input_size"]
    return (
        f"Images per second from JPEG to a random crop of {width} x {height} pixels: "
        f"{images['images']} images of ImageNet ({images['mean_bytes'] / 1e3:.0f} kB on average), "
        f"{settings['num_workers']} threads or processes, {report['device']}, files in the page "
        f"cache, median of {settings['rounds']} rounds in turns, {report['date'][:10]}.\n"
    )
