"""The --help of every command: everyday flags in groups, an example, and where the others are.

All that it says about a flag is in the flag's declaration: type, default, the text below it, and
`Expert` if only --help-all shows it. Lines of a class's docstring that begin with its command are
examples.
"""

from __future__ import annotations

import itertools
import shutil
import textwrap
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from fastimae.declarations import Flag, declared, documentation, groups_of
from fastimae.flags import spelled

WIDTH, COLUMN = 100, 26
FULL, VERSION = "--help_all", "--version"
_NO_BREAK = "\xa0"
Recipe = Callable[[], Mapping[str, Any]]
Recipes = Mapping[str, Recipe]


def help_asked(argv: Sequence[str]) -> str | None:
    """Return the flag in `argv` that asks for help, if any; words after -- do not count."""
    return next((flag for flag in _flags_in(argv) if flag in ("-h", "--help", FULL)), None)


def version_asked(argv: Sequence[str]) -> bool:
    """Return whether `argv` asks for the version; words after -- do not count."""
    return VERSION in _flags_in(argv)


def _flags_in(argv: Sequence[str]) -> list[str]:
    return [spelled(word) for word in itertools.takewhile(lambda word: word != "--", argv)]


def help_page(
    prog: str,
    options: type,
    values: Any = None,
    recipes: Recipes | None = None,
    *,
    full: bool = False,
) -> str:
    """Return the help of a command.

    values: an instance of `options` with the defaults to show; None: the declared ones. recipes:
    those that --recipe takes. full: include the flags that are `Expert`.
    """
    width = max(min(shutil.get_terminal_size((WIDTH, 0)).columns, WIDTH), 2 * COLUMN)
    groups = list(groups_of(options, values))
    flags = declared(options, values)
    lines = [_usage(prog, flags), "", *_about(prog, options)]
    for title, group in groups:
        if shown := [flag for flag in group if full or not flag.expert]:
            lines += ["", *filter(None, [title])]
            lines += [line for flag in shown for line in _lines(flag, width)]
    lines += _recipe_lines(recipes or {}, width, full=full)
    hidden = 0 if full else sum(flag.expert for flag in flags)
    return "\n".join([*lines, "", *_ending(prog, hidden)])


def _lines(flag: Flag, width: int) -> list[str]:
    """Return a flag's lines: how to type it on the left, what it does on the right."""
    default = "" if flag.required else _in_words(flag.default)
    unbroken = f"(default: {default})".replace(" ", _NO_BREAK) if default else ""
    rows = _row(flag.spelled(), f"{flag.text} {unbroken}".strip(), width)
    return [row.replace(_NO_BREAK, " ") for row in rows]


def _in_words(value: Any) -> str:
    """Return a default as it would be typed; "" for None and for a switch that is off."""
    if isinstance(value, tuple | list):
        return " ".join(map(_in_words, value))
    if isinstance(value, bool):
        return "on" if value else ""
    if isinstance(value, float):
        return f"{value:g}"
    return "" if value is None else str(value)


def _row(left: str, right: str, width: int, column: int = COLUMN) -> list[str]:
    """Return lines in two columns; a long left part moves the first line of the right one."""
    return textwrap.wrap(
        right or "-",
        width,
        initial_indent=f"  {left}".ljust(column - 2) + "  ",
        subsequent_indent=" " * column,
        break_on_hyphens=False,
        break_long_words=False,
    )


def _recipe_lines(recipes: Recipes, width: int, *, full: bool) -> list[str]:
    """Return the names of the recipes; in the full help with a line on each.

    Recipes that have a title of their own are always listed with a line on each.
    """
    if not recipes:
        return []
    title = getattr(recipes, "title", None)
    if not full and not title:
        names = f"Recipes, for --recipe; --help-all has a line on each: {', '.join(recipes)}."
        return ["", *textwrap.wrap(names, width, break_on_hyphens=False)]
    column = max(map(len, recipes)) + 4
    rows = [_row(name, documentation(each)[0], width, column) for name, each in recipes.items()]
    return ["", title or "Recipes, for --recipe.", *itertools.chain.from_iterable(rows)]


def _about(prog: str, options: type) -> list[str]:
    """Return what a command does, and its examples, indented."""
    lines = documentation(options)
    return [f"    {line.strip()}" if line.strip().startswith(prog) else line for line in lines]


def _usage(prog: str, flags: Sequence[Flag]) -> str:
    named = [flag.spelled(aliases=False) for flag in flags if flag.required and not flag.positional]
    unnamed = [
        flag.spelled() if flag.required else f"[{flag.spelled()}]"
        for flag in flags
        if flag.positional
    ]
    return " ".join(["usage:", prog, *named, "[flags]", *unnamed])


def _ending(prog: str, hidden: int) -> list[str]:
    lines = [
        "Switches have a --no_ form, - is the same as _, paths may have ~ and $VAR; see --version."
    ]
    if hidden:
        flags = f"{hidden} more flag{'s' * (hidden > 1)}"
        lines.append(f"{flags}, for experts and launchers: {prog} --help-all")
    return lines
