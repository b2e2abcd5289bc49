"""A setting stands on a command line, or in a YAML file, once: the last of two would win without a
word."""

from __future__ import annotations

import argparse
import dataclasses
import sys
from collections.abc import Mapping, Sequence
from typing import Any, get_type_hints

import yaml


def repeated(argv: Sequence[str], meaning: Mapping[str, str]) -> str | None:
    """What is wrong with a command line that gives something twice, or None.

    meaning: by flag, what it sets; flags that set the same are one. Hyphens are underscores, and
    what follows -- is not looked at.
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
            return f"{given[target]} and {flag} are both given, and set the same: keep one of them"
        if target is not None:
            given[target] = flag
    return None


def spelled(word: str) -> str:
    """The flag that a word is or starts with, as our help spells it: --batch-size=4 is
    --batch_size. Other words stay something that is no flag."""
    name = word.partition("=")[0]
    return "--" + name[2:].replace("-", "_") if name.startswith("--") else name


def flags_of(options: type) -> dict[str, str]:
    """What each flag of an options class sets, by tyro's rules: groups are flattened, bools have a
    --no_ form, and arguments may have aliases."""
    found: dict[str, str] = {}
    hints = get_type_hints(options, include_extras=True)
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


class OnceParser(argparse.ArgumentParser):
    """A parser that takes each flag once, and never abbreviated."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(**{"allow_abbrev": False, **settings})

    def parse_known_args(self, args=None, namespace=None):
        """As argparse; a flag that is given twice is an error."""
        meaning = {spelled(flag): action.dest for action in self._actions
                   for flag in action.option_strings}  # fmt: skip
        problem = repeated(sys.argv[1:] if args is None else args, meaning)
        if problem is not None:
            self.error(problem)
        return super().parse_known_args(args, namespace)


class OnceLoader(yaml.SafeLoader):
    """As yaml.safe_load, but that a key may not come twice: the last would win without a word."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        keys = [self.construct_object(key, deep=True) for key, _ in node.value]
        names = [key.replace("-", "_") if isinstance(key, str) else key for key in keys]
        for place, name in enumerate(names):
            if name in names[:place]:
                raise yaml.constructor.ConstructorError(problem=f"{name} is there twice")
        return super().construct_mapping(node, deep)
