"""Import a user's code that a flag names as module:name or file.py:name, which runs the module."""

from __future__ import annotations

import contextlib
import functools
import importlib
import importlib.util
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

from fastimae.wording import in_one_line


def import_from_spec(
    flag: str, spec: str, kind: str, fits: Callable[[Any], bool], error: type[Exception]
) -> Any:
    """Import the object that `spec` names, searching the current directory first.

    kind: what it should be, such as "function". fits: checks it. Raises `error`, in one line that
    names the flag, if it cannot be imported or does not fit.
    """
    module, _, name = spec.rpartition(":")
    if not (module and name):
        raise error(f"{flag} {spec} is not of the form module:{kind} or file.py:{kind}")
    with current_directory_first():
        try:
            found = getattr(_import(module), name, None)
        except Exception as wrong:
            why = f"module {module} cannot be imported ({in_one_line(wrong)})"
            raise error(f"{flag} {spec}: {why}") from wrong
    if not fits(found):
        raise error(f"{flag} {spec}: {module} has no {kind} {name}")
    return found


def call_user_function(
    flag: str, spec: str, function: Callable[[], Any], error: type[Exception]
) -> Any:
    """Return the result of `function`, which `spec` names. Raises `error` if it fails."""
    try:
        with current_directory_first():
            return function()
    except Exception as wrong:
        why = f"{spec.rpartition(':')[2]}() failed ({in_one_line(wrong)})"
        raise error(f"{flag} {spec}: {why}") from wrong


def _import(module: str) -> ModuleType:
    """Import a module by its name, or by the path of its file, which ends in .py."""
    if not module.endswith(".py"):
        return importlib.import_module(module)
    return _import_file(Path(module).expanduser().resolve())


@functools.cache
def _import_file(path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(spec)
    registered = sys.modules.setdefault(path.stem, module)  # for pickle and dataclasses
    try:
        with _directory_first(path.parent):  # for the modules beside it
            spec.loader.exec_module(module)
    except BaseException:
        if registered is module:
            del sys.modules[path.stem]
        raise
    return module


def current_directory_first() -> contextlib.AbstractContextManager[None]:
    """Make imports search the current directory first, during the block."""
    return _directory_first(Path.cwd())


@contextlib.contextmanager
def _directory_first(path: Path) -> Iterator[None]:
    directory = str(path)
    sys.path.insert(0, directory)
    try:
        yield
    finally:
        with contextlib.suppress(ValueError):
            sys.path.remove(directory)
