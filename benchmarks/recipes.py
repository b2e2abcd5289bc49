"""Sections of docs/recipes.md, made from the recipes' functions: `python -m benchmarks.report`."""

from __future__ import annotations

import inspect
import re

from benchmarks.harness import table
from fastimae.evaluate.options import detect_recipes, finetune_recipes, linear, segment_recipes
from fastimae.help import Recipe, Recipes
from fastimae.recipes import RECIPES

OF: dict[str, Recipes] = {
    "": RECIPES,
    "finetune": finetune_recipes.RECIPES,
    "linear": linear.RECIPES,
    "segment": segment_recipes.RECIPES,
    "detect": detect_recipes.RECIPES,
}
"""The recipes of each marker: of fastimae-train, and of tasks of fastimae-eval."""
MARKED = re.compile(r"(<!-- recipes ?(\w*) -->\n).*?(<!-- end -->)", re.DOTALL)


def filled(text: str) -> str:
    """Fill the marked sections of a text again."""

    def fill(marker: re.Match) -> str:
        begin, task, end = marker.groups()
        sections = "\n".join(section(name, each, task) for name, each in OF[task].items())
        return f"{begin}\n{sections}\n{end}"

    return MARKED.sub(fill, text)


def section(name: str, recipe: Recipe, task: str = "") -> str:
    """Make the section of a recipe: what it is for, commands, conditions, settings."""
    about, facts = described(recipe)
    title = f"{task}: {name}" if task else name
    lines = [f"## {title}\n", f"{about}\n"]
    if command := facts.pop("Command", ""):
        lines.append(f"```\n{command}\n```\n")
    lines += [f"- **{fact}:** {text}" for fact, text in facts.items()]
    lines += [""] * bool(facts)
    rows = [{"setting": f"`{key}`", "value": _shown(value)} for key, value in recipe().items()]
    return "\n".join([*lines, table(rows)])


def described(recipe: Recipe) -> tuple[str, dict[str, str]]:
    """Return the first paragraphs of a recipe's docstring, and the facts below by their names."""
    about, *parts = re.split(r"^(\w+): +", inspect.getdoc(recipe), flags=re.MULTILINE)
    facts = dict(zip(parts[::2], map(_one_line, parts[1::2]), strict=True))
    if "Command" in facts:
        facts["Command"] = _commands(parts[1])
    return about.strip(), facts


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
