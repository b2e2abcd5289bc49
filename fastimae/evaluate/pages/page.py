"""HTML pages made of sections, from templates/; each page is one file that needs no others."""

from __future__ import annotations

import base64
import dataclasses
import io
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jinja2
from PIL import Image

from fastimae import __version__
from fastimae.evaluate.pages.charts import Chart
from fastimae.evaluate.pages.dark_pictures import dark_layer
from fastimae.evaluate.pages.tables import Cell, all_keys, format_value

Row = Mapping[str, Any]


class PictureRow(NamedTuple):
    """Pictures of one kind, side by side."""

    title: str
    pictures: Mapping[str, Path | None]
    """By run; None where a run has no picture of this kind."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Section:
    """A heading and what is below it, in the order of these fields."""

    title: str
    notes: Sequence[str] = ()
    cards: Row = dataclasses.field(default_factory=dict)
    """Numbers to see at a glance, by name."""
    facts: Mapping[str, str] = dataclasses.field(default_factory=dict)
    """Statements about the run, by name."""
    command: str = ""
    """The command that made all this, to copy."""
    charts: Sequence[Chart] = ()
    more_charts: Sequence[Chart] = ()
    """Charts that are folded away."""
    tables: Mapping[str, Sequence[Row]] = dataclasses.field(default_factory=dict)
    """By title; "" for a table that needs none."""
    footnotes: Sequence[str] = ()
    """To the tables, numbered from 1."""
    pictures: Sequence[Path] = ()
    picture_rows: Sequence[PictureRow] = ()
    settings: Row = dataclasses.field(default_factory=dict)
    settings_title: str = "Settings of this evaluation"

    @property
    def is_empty(self) -> bool:
        """Whether there is nothing below the heading."""
        parts = (getattr(self, field.name) for field in dataclasses.fields(self)
                 if field.name not in ("title", "tables", "settings_title"))  # fmt: skip
        return not any(parts) and not any(self.tables.values())


def render(title: str, about: str, sections: Sequence[Section]) -> str:
    """Return a page: the title, a line about it, and the sections that are not empty."""
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader(__package__), undefined=jinja2.StrictUndefined,
        autoescape=True, trim_blocks=True, lstrip_blocks=True, keep_trailing_newline=True,
    )  # fmt: skip
    environment.globals |= {"version": __version__}
    environment.tests |= {"cell": lambda value: isinstance(value, Cell)}
    environment.filters |= {
        "base64": lambda content: base64.b64encode(content).decode(),
        "columns": _columns,
        "dark_layer": dark_layer,
        "setting": _setting,
        "size": _size,
        "value": format_value,
    }
    shown = [section for section in sections if not section.is_empty]
    anchors = _anchors([section.title for section in shown])
    pairs = list(zip(anchors, shown, strict=True))
    return environment.get_template("page.html.j2").render(title=title, about=about, sections=pairs)


def _anchors(titles: Sequence[str]) -> list[str]:
    """Return an id for each heading, for links to lead to."""
    slugs = [re.sub(r"[^a-z0-9]+", "-", title.lower()).strip("-") or "section" for title in titles]
    return [
        slug if slugs.count(slug) == 1 else f"{slug}--{number}"
        for number, slug in enumerate(slugs, 1)
    ]


def _columns(rows: Sequence[Row]) -> dict[str, str]:
    """Return the columns of a table, each with its class in the style sheet."""
    cells = {name: [row.get(name) for row in rows] for name in all_keys(rows)}
    return {
        name: "text"
        if any(column) and all(isinstance(cell, str | None) for cell in column)
        else "number"
        for name, column in cells.items()
    }


def _setting(value: Any) -> str:
    """Write a value as it was set, with all of its digits."""
    return ", ".join(map(str, value)) if isinstance(value, list | tuple) else str(value)


def _size(picture: bytes) -> tuple[int, int]:
    """Return width and height in pixels, so that a page keeps room; zeros for a broken picture."""
    try:
        with Image.open(io.BytesIO(picture)) as image:
            return image.size
    except OSError:
        return 0, 0
