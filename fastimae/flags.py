"""Check that no setting is given twice, as a flag or in YAML: the last would silently win."""

from __future__ import annotations

import argparse
import dataclasses
import itertools
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from fastimae.paths import expanded
from fastimae.settings import hints_of


def repeated(argv: Sequence[str], meaning: Mapping[str, str]) -> str | None:
    """Return an error message if a command line gives a setting twice, else None.

    meaning: the setting of each flag; several flags may have the same. Hyphens count as
    underscores, and anything after -- is ignored.
    """
    given: dict[str, str] = {}
    for word in argv:
        if word == "--":
            break
        flag = spelled(word)
        target = meaning.get(flag)
        if target in given:
            if given[target] == flag:
                return f"{flag} is given twice: keep one of them"
            return f"{given[target]} and {flag} change the same setting: keep one of them"
        if target is not None:
            given[target] = flag
    return None


def given_in(argv: Sequence[str], meaning: Mapping[str, str]) -> set[str]:
    """Return the settings that a command line gives. meaning: as for `repeated`."""
    words = itertools.takewhile(lambda word: word != "--", argv)
    return {meaning[flag] for flag in map(spelled, words) if flag in meaning}


def spelled(word: str) -> str:
    """Return the flag in a word, as our help spells it: --batch-size=4 gives --batch_size.

    The result for any other word is not a flag.
    """
    name = word.partition("=")[0]
    return "--" + name[2:].replace("-", "_") if name.startswith("--") else name


def flags_of(options: type) -> dict[str, str]:
    """Return the setting of each flag of an options class, by tyro's rules: groups are flattened,
    bools have a --no_ form, and arguments may have aliases."""
    found: dict[str, str] = {}
    hints = hints_of(options)
    for field in dataclasses.fields(options):
        hint = hints[field.name]
        if dataclasses.is_dataclass(hint):
            found |= flags_of(hint)
            continue
        notes = getattr(hint, "__metadata__", ())
        aliases = [alias for note in notes for alias in getattr(note, "aliases", None) or ()]
        names = [f"--{field.name}", *map(spelled, aliases)]
        if (hint.__origin__ if notes else hint) is bool:
            names.append(f"--no_{field.name}")
        found |= dict.fromkeys(names, field.name)
    return found


def path_argument(text: str) -> Path:
    """Parse a path for argparse, see `fastimae.paths`."""
    try:
        return Path(expanded(text))
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


class OnceParser(argparse.ArgumentParser):
    """A parser that accepts each flag once, and no abbreviations; it expands paths."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(**{"allow_abbrev": False, **settings})
        self.register("type", Path, path_argument)

    def parse_known_args(self, args=None, namespace=None):
        """Parse as argparse does, but reject a flag that is given twice."""
        meaning = {spelled(flag): action.dest for action in self._actions
                   for flag in action.option_strings}  # fmt: skip
        problem = repeated(sys.argv[1:] if args is None else args, meaning)
        if problem is not None:
            self.error(problem)
        return super().parse_known_args(args, namespace)


class OnceLoader(yaml.SafeLoader):
    """Like yaml.safe_load, but rejects a repeated key: the last one would silently win."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        keys = [self.construct_object(key, deep=True) for key, _ in node.value]
        names = [key.replace("-", "_") if isinstance(key, str) else key for key in keys]
        for place, name in enumerate(names):
            if name in names[:place]:
                mark = node.value[place][0].start_mark
                raise yaml.constructor.ConstructorError(None, None, f"{name} is given twice", mark)
        return super().construct_mapping(node, deep)
