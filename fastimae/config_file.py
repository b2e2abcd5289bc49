"""A YAML file of settings, such as the one that --config names, and the line of each for errors."""

from __future__ import annotations

import contextlib
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml

from fastimae.engine.run_file import STARTS
from fastimae.flags import OnceLoader, spelled
from fastimae.paths import expanded
from fastimae.settings import ConfigError

_DEEPEST = 5
"""Mappings within each other whose lines are known; a file may even be its own value."""
_FORM = "expected lines of the form 'batch_size: 64'"


class FileSettings(dict[str, Any]):
    """The settings in a file, by name as written there; none without a file."""

    def __init__(
        self, source: str, settings: Mapping[Any, Any], lines: Mapping[tuple[Any, ...], int]
    ) -> None:
        """Copy the settings. source: the file, as errors name it. lines: the line of each key, by
        the keys around it and itself."""
        super().__init__(settings)
        self.source, self._lines = source, lines

    def place(self, *keys: Any) -> str:
        """Return where a setting is: "--config run.yaml, line 3".

        keys: those around it and its own; the line is that of the last that has one.
        """
        known = (keys[:count] for count in range(len(keys), 0, -1))
        line = next((self._lines[some] for some in known if some in self._lines), None)
        return f"{self.source}, line {line}" if line else self.source

    def names(self) -> set[str]:
        """Return the settings in the file, by flag name."""
        return set(self.places(()))

    @contextlib.contextmanager
    def naming(self, key: str, flags: Collection[str]) -> Iterator[None]:
        """Add the place of a setting to errors about it, if it is here and not among the flags."""
        try:
            yield
        except ConfigError as error:
            if key not in self or key in flags:
                raise
            raise ConfigError(f"{self.place(key)}: {error}") from error

    def places(self, overridden: Collection[str]) -> dict[str, str]:
        """Return where each setting is, by flag name, except those that flags override."""
        names = {key: spelled(f"--{key}")[2:] for key in self}
        return {name: self.place(key) for key, name in names.items() if name not in overridden}


def config_file(flags: Mapping[str, str]) -> FileSettings:
    """Return the settings of the file that --config names among these flags, if it does.

    Raises ConfigError.
    """
    if "config" not in flags:
        return FileSettings("", {}, {})
    try:
        path = Path(expanded(flags["config"]))
    except ValueError as error:
        raise ConfigError(f"--config {error}") from None
    return read_yaml(path, f"--config {path}")


def read_yaml(path: Path, source: str) -> FileSettings:
    """Read a file of settings, such as a run.yaml, whose `starts` are no settings.

    source: the file, as errors name it. Raises ConfigError if it is missing, or does not consist of
    settings.
    """
    text = _read_text(path, source)
    try:
        loader = OnceLoader(text)
        root = loader.get_single_node()
        settings = loader.construct_document(root) if root else {}
    except yaml.YAMLError as error:
        raise ConfigError(_in_one_line(error, source, text)) from error
    if not isinstance(settings, dict) or not text.strip():
        what = type(settings).__name__.replace("dict", "empty file").replace("str", "text")
        raise ConfigError(f"{source}: {_FORM}, not {'an' if what[0] in 'aeiou' else 'a'} {what}")
    settings.pop(STARTS, None)
    return FileSettings(source, settings, dict(_lines(root, loader)))


def _lines(
    node: yaml.Node | None, loader: OnceLoader, above: tuple[Any, ...] = ()
) -> Iterator[tuple[tuple[Any, ...], int]]:
    """Yield the keys of nested mappings, each with those above it, and the line of each."""
    if not isinstance(node, yaml.MappingNode) or len(above) == _DEEPEST:
        return
    for key, value in node.value:
        keys = (*above, loader.construct_object(key))
        yield keys, key.start_mark.line + 1
        yield from _lines(value, loader, keys)


def _read_text(path: Path, source: str) -> str:
    try:
        return path.read_text(encoding="utf-8-sig")
    except UnicodeError as error:
        raise ConfigError(f"{source}: this is no text file in UTF-8") from error
    except OSError as error:
        raise ConfigError(f"{source}: {error.strerror or error}") from error


def _in_one_line(error: yaml.YAMLError, source: str, text: str) -> str:
    """Return an error of the parser with its line, and without the file's content."""
    mark = getattr(error, "problem_mark", None)
    line = mark.line if mark else text.count("\n", 0, getattr(error, "position", 0))
    problem = getattr(error, "problem", None) or getattr(error, "reason", None) or "no YAML"
    if "'\\t'" in problem:
        problem = "a tab, which YAML does not allow here: indent with spaces"
    return f"{source}, line {line + 1}: {problem}"
