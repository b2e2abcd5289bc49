"""The content of a study's file with --set applied, and where each part of it stands."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import yaml

from fastimae.config_file import read_yaml
from fastimae.evaluate.studies.flag_words import Flag
from fastimae.flags import OnceLoader
from fastimae.settings import ConfigError
from fastimae.wording import did_you_mean

_NAME = re.compile(r"\w[\w.+-]*")
"""Names of models, evaluations and columns: the first two are parts of folders' names."""


class Content:
    """Nested mappings. Keys are texts, as errors name them: "few.yaml, line 7: models.imae"."""

    def __init__(self, path: Path, changes: Sequence[str] = ()) -> None:
        """Read a file, then make the changes, each a text KEY.KEY=VALUE. Raises ConfigError."""
        self.file = read_yaml(path, str(path))
        self.all = _with_text_keys(dict(self.file), str(path))
        self._changed: set[tuple[str, ...]] = set()
        for change in changes:
            self._change(change)

    def place(self, *keys: str) -> str:
        """Return where a part stands: in a line of the file, or in --set."""
        for count in range(len(keys), 0, -1):
            if keys[:count] in self._changed:
                return f"--set {'.'.join(keys[:count])}"
        return self.file.place(*keys)

    def error(self, message: str, *keys: str) -> ConfigError:
        """Return an error about the part under these keys."""
        return ConfigError(": ".join(filter(None, [self.place(*keys), ".".join(keys), message])))

    def get(self, *keys: str) -> Any:
        """Return the part under these keys, None if there is none."""
        found = self.all
        for key in keys:
            found = found.get(key) if isinstance(found, dict) else None
        return found

    def mapping(self, *keys: str) -> dict[str, Any]:
        """Return a part that is a mapping; {} if it is empty or missing. Raises ConfigError."""
        found = self.get(*keys)
        if found is not None and not isinstance(found, dict):
            raise self.error("write its settings below it, each as 'key: value'", *keys)
        return found or {}

    def names(self, *keys: str) -> list[str]:
        """Return the keys of a mapping that are names. Raises ConfigError for others."""
        for name in (found := self.mapping(*keys)):
            if not _NAME.fullmatch(name):
                raise self.error("a name has letters, digits and . _ + - only", *keys, name)
        return list(found)

    def check_keys(self, known: Sequence[str], *keys: str) -> None:
        """Raise ConfigError for a key that this part does not have."""
        for key in self.mapping(*keys):
            if key not in known:
                near = did_you_mean(key, known) or f": it has {', '.join(known)}"
                raise self.error(f"there is no such setting{near}", *keys, key)

    def text(self, *keys: str) -> str:
        """Return a part that is a text, "" if it is missing. Raises ConfigError."""
        found = self.get(*keys)
        if found is not None and not isinstance(found, str):
            raise self.error("this must be a text", *keys)
        return " ".join((found or "").split())

    def texts(self, *keys: str) -> tuple[str, ...]:
        """Return a part that is a text or a list of them; () if missing. Raises ConfigError."""
        found = self.get(*keys)
        values = found if isinstance(found, list) else [] if found is None else [found]
        if not all(isinstance(value, str) for value in values):
            raise self.error("this must be a list of texts", *keys)
        return tuple(values)

    def flags(self, *keys: str, but: Sequence[str] = ()) -> dict[str, Flag]:
        """Return a part whose keys are flags, without those in `but`. Raises ConfigError."""
        found = {}
        for key, value in self.mapping(*keys).items():
            if key in but:
                continue
            if isinstance(value, dict):
                raise self.error("a flag takes a value or a list of values", *keys, key)
            found[key.replace("-", "_")] = Flag(value, self.place(*keys, key))
        return found

    def _change(self, change: str) -> None:
        """Set a part to the value of KEY.KEY=VALUE, which is YAML."""
        path, equals, text = change.partition("=")
        *above, last = path.split(".")
        if not (equals and all(above) and last):
            raise ConfigError(f"--set {change}: write KEY.KEY=VALUE, as train.epochs=5")
        found, keys = self.all, ()
        for key in above:
            keys = (*keys, _as_known(key, found))
            if found.get(keys[-1]) is None:
                found[keys[-1]] = {}
            found = found[keys[-1]]
            if not isinstance(found, dict):
                raise ConfigError(f"--set {path}: {'.'.join(keys)} has no parts")
        last = _as_known(last, found)
        try:
            found[last] = _with_text_keys(yaml.load(text, OnceLoader), f"--set {path}")
        except yaml.YAMLError as error:
            raise ConfigError(f"--set {change}: {getattr(error, 'problem', error)}") from error
        self._changed.add((*keys, last))


def _as_known(key: str, known: Iterable[str]) -> str:
    """Return a key as a mapping has it, in which - and _ are the same."""
    return next((each for each in known if each.replace("-", "_") == key.replace("-", "_")), key)


def _with_text_keys(value: Any, source: str) -> Any:
    """Return mappings with keys of texts, as a column may be called 2 and a model on."""
    if not isinstance(value, dict):
        return value
    made = {str(key): _with_text_keys(part, source) for key, part in value.items()}
    if len(made) < len(value):
        raise ConfigError(f"{source}: a name is given twice, as a text and as a number")
    return made
