"""The studies that come with FastIMAE: files in papers/, by name."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml

from fastimae.arguments import UsageError
from fastimae.log import log
from fastimae.wording import did_you_mean

FOLDER = Path(__file__).parent / "papers"


class Shipped(Mapping[str, Callable[[], Mapping[str, Any]]]):
    """The shipped studies by name, for --help: it shows the first line of each one's docstring."""

    title = "Studies that come with FastIMAE, for FILE."

    def __getitem__(self, name: str) -> Callable[[], Mapping[str, Any]]:
        if name not in set(self):
            raise KeyError(name)

        def content() -> Mapping[str, Any]:
            return yaml.safe_load((FOLDER / f"{name}.yaml").read_text(encoding="utf-8"))

        content.__doc__ = content()["about"]
        return content

    def __iter__(self) -> Iterator[str]:
        return iter(sorted(path.stem for path in FOLDER.glob("*.yaml")))

    def __len__(self) -> int:
        return len(list(iter(self)))


SHIPPED = Shipped()


def find_study(name: str) -> Path:
    """Return the file of a study: a path, or the name of a shipped one.

    Raises UsageError if there is none, after listing the shipped ones.
    """
    path = Path(name)
    if path.suffix in (".yaml", ".yml") or path.exists():
        return path
    if name in SHIPPED:
        return FOLDER / f"{name}.yaml"
    width = max(map(len, SHIPPED))
    lines = [f"  {each:{width}}  {SHIPPED[each].__doc__}" for each in SHIPPED]
    log.info("%s", "\n".join([SHIPPED.title, *lines]))
    near = did_you_mean(name, SHIPPED) or ", nor one that comes with FastIMAE"
    raise UsageError(f"there is no file {name}{near} (fastimae-eval study --help)")
