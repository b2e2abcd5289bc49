"""A user's own code, which a flag names as module:name. To import it is to run it."""

from __future__ import annotations

import contextlib
import importlib
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any


def imported(
    flag: str, spec: str, kind: str, fits: Callable[[Any], bool], error: type[Exception]
) -> Any:
    """What `spec` names. The module is also looked for in the current directory, there first.

    kind: what it should be, as "function". Raises `error`, in one line that names the flag, also
    where it does not fit.
    """
    module, _, name = spec.partition(":")
    if not (module and name):
        raise error(f"{flag} {spec} is not of the form module:{kind}")
    with current_directory_first():
        try:
            found = getattr(importlib.import_module(module), name, None)
        except Exception as wrong:
            why = f"module {module} cannot be imported ({in_one_line(wrong)})"
            raise error(f"{flag} {spec}: {why}") from wrong
    if not fits(found):
        raise error(f"{flag} {spec}: {module} has no {kind} {name}")
    return found


@contextlib.contextmanager
def current_directory_first() -> Iterator[None]:
    """Imports look there first."""
    directory = str(Path.cwd())
    sys.path.insert(0, directory)
    try:
        yield
    finally:
        with contextlib.suppress(ValueError):
            sys.path.remove(directory)


def in_one_line(error: BaseException) -> str:
    """Type and message of `error`."""
    return " ".join(f"{type(error).__name__}: {error}".split())
