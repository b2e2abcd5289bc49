"""Sections of docs/recipes.md, made from fastimae/recipes.py: `python -m benchmarks.report`."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable

from benchmarks.harness import table
from fastimae.recipes import RECIPES

MARKED = re.compile(r"(<!-- recipes -->\n).*?(<!-- end -->)", re.DOTALL)


def filled(text: str) -> str:
    """Fill the marked sections of a text again."""
    sections = "\n".join(section(name, recipe) for name, recipe in RECIPES.items())
    return MARKED.sub(lambda marker: f"{marker[1]}\n{sections}\n{marker[2]}", text)


def section(name: str, recipe: Callable[[], dict]) -> str:
    """Make the section of a recipe: what it is for, commands, conditions, settings."""
    about, facts = described(recipe)
    lines = [f"## {name}\n", f"{about}\n", f"```\n{facts.pop('Command')}\n```\n"]
    lines += [f"- **{fact}:** {text}" for fact, text in facts.items()]
    rows = [{"setting": f"`{key}`", "value": _shown(value)} for key, value in recipe().items()]
    return "\n".join([*lines, "", table(rows)])


def described(recipe: Callable[[], dict]) -> tuple[str, dict[str, str]]:
    """Return the first line of a recipe's docstring, and the facts below it by their names."""
    about, text = inspect.getdoc(recipe).split("\n\n", 1)
    parts = re.split(r"^(\w+): *", text, flags=re.MULTILINE)[1:]
    facts = dict(zip(parts[::2], map(_one_line, parts[1::2]), strict=True))
    facts["Command"] = _commands(parts[1])
    return about, facts


def _one_line(text: str) -> str:
    return " ".join(text.split())


def _commands(text: str) -> str:
    """Return one command per line; a line that starts with a flag continues the line before."""
    lines = "\n".join(line.strip() for line in text.strip().splitlines())
    return re.sub(r"\n(?=--)", " \\\\\n    ", lines)


def _shown(value: object) -> str:
    """Return a value as on the command line; of switches, whether they are on."""
    if isinstance(value, bool):
        return "on" if value else "off"
    return " ".join(map(str, value)) if isinstance(value, list) else str(value)
