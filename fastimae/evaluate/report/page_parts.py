"""Pieces of HTML: tables, cards, charts and pictures, everything within the page itself."""

from __future__ import annotations

import base64
import html
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from fastimae.evaluate.report.page_style import CSS
from fastimae.evaluate.report.svg import line_chart
from fastimae.evaluate.report.tables import columns_of, shown

LONG_TABLE = 14
"""Rows; longer tables are folded away until asked for."""
_UNPLOTTED = ("epoch", "bad_samples")
_FIRST = ("Accuracy (%)", "Loss", "Loss, its parts")


def document(title: str, about: str, sections: Mapping[str, str], footer: str) -> str:
    """A whole page: a heading, links to the sections, the sections by title."""
    sections = {name: body for name, body in sections.items() if body}
    links = "".join(f'<a href="#{anchor(n)}">{html.escape(n)}</a>' for n in sections)
    bodies = "\n".join(
        f'<section id="{anchor(name)}"><h2>{html.escape(name)}</h2>\n{body}</section>'
        for name, body in sections.items()
    )
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{html.escape(title)}</title>\n<style>{CSS}</style>\n</head>\n<body>\n"
        f'<header><h1>{html.escape(title)}</h1>\n<p class="soft">{html.escape(about)}</p>\n'
        f"<nav>{links}</nav></header>\n{bodies}\n"
        f"<footer>{html.escape(footer)}</footer>\n</body>\n</html>\n"
    )


def anchor(name: str) -> str:
    """The id of a section."""
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")


def cards(values: Mapping[str, Any]) -> str:
    """Numbers to see at a glance."""
    if not values:
        return ""
    items = "".join(
        f"<li><b>{html.escape(shown(value))}</b><span>{html.escape(name)}</span></li>"
        for name, value in values.items()
    )
    return f'<ul class="cards">{items}</ul>\n'


def table(rows: Sequence[Mapping[str, Any]], title: str = "") -> str:
    """A table with a line for each row, folded if long; columns of text are set to the left."""
    if not rows:
        return ""
    names = columns_of(rows)
    kinds = [_kind(row.get(name) for row in rows) for name in names]
    columns = list(zip(names, kinds, strict=True))
    head = "".join(f"<th{kind}>{html.escape(name)}</th>" for name, kind in columns)
    body = "\n".join(
        "<tr>"
        + "".join(f"<td{kind}>{html.escape(shown(row.get(name)))}</td>" for name, kind in columns)
        + "</tr>"
        for row in rows
    )
    text = (
        f'<div class="scroll"><table><thead><tr>{head}</tr></thead>\n'
        f"<tbody>{body}</tbody></table></div>\n"
    )
    if len(rows) <= LONG_TABLE:
        return (f"<h3>{html.escape(title)}</h3>\n" if title else "") + text
    return folded(f"{title or 'Table'}: {len(rows)} rows", text)


def settings(values: Mapping[str, Any], title: str = "Settings") -> str:
    """Names and values, folded."""
    rows = [{"setting": name, "value": _plain(value)} for name, value in values.items()]
    if not rows:
        return ""
    lines = "".join(
        f'<tr><td>{html.escape(row["setting"])}</td><td class="text">{html.escape(row["value"])}'
        "</td></tr>"
        for row in rows
    )
    return folded(title, f'<div class="scroll"><table>{lines}</table></div>')


def folded(title: str, body: str) -> str:
    """Shown when asked for."""
    return f"<details><summary>{html.escape(title)}</summary>\n{body}</details>\n"


def picture(path: Path, title: str | None = None) -> str:
    """A PNG file, in full in the page; a click shows it at its own size."""
    data = base64.b64encode(path.read_bytes()).decode()
    name = html.escape(spaced(path.stem) if title is None else title)
    return (
        f'<figure class="picture"><figcaption>{name}</figcaption>'
        f'<img src="data:image/png;base64,{data}" alt="{name}" loading="lazy" '
        "onclick=\"this.classList.toggle('full')\"></figure>\n"
    )


def curves(entries: Sequence[Mapping[str, Any]]) -> str:
    """Charts of a log: losses, accuracies, and one for each other number; none of a single line."""
    if len(entries) < 2:
        return ""
    groups: dict[str, dict[str, list[tuple[float, float]]]] = {}
    for number, entry in enumerate(entries):
        for name, value in entry.items():
            if isinstance(value, bool) or not isinstance(value, int | float):
                continue
            if name in _UNPLOTTED:
                continue
            line = groups.setdefault(_group(name), {}).setdefault(_without_prefix(name), [])
            line.append((float(entry.get("epoch", number)) + 1, float(value)))
    titles = sorted(groups, key=lambda title: (title not in _FIRST, title))
    charts = "".join(line_chart(title, groups[title]) for title in titles)
    return f'<div class="charts">{charts}</div>\n' if charts else ""


def spaced(name: str) -> str:
    """A name in code as words."""
    return name.replace("_", " ")


def _group(name: str) -> str:
    if "acc" in name:
        return "Accuracy (%)"
    if name != "train_lr" and name.startswith(("train_", "val_", "test_")):
        return "Loss" if "loss" in name else "Loss, its parts"
    return {
        "train_lr": "Learning rate",
        "img_per_s": "Speed (images/s)",
        "mfu": "Share of the device's peak (MFU)",
        "data_wait": "Share of time waiting for data",
        "memory_gb": "Memory (GB)",
    }.get(name, spaced(name).capitalize())


def _without_prefix(name: str) -> str:
    return spaced(name.removeprefix("train_"))


def _kind(values: Iterable[Any]) -> str:
    """The attribute of a column's cells."""
    known = [value for value in values if value is not None]
    return ' class="text"' if known and all(isinstance(value, str) for value in known) else ""


def _plain(value: Any) -> str:
    return ", ".join(map(str, value)) if isinstance(value, list | tuple) else str(value)
