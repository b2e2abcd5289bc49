"""--label_field and --image_field with several .beton files: which file a flag applies to.

A file of the ffcv library may name its fields differently from one of fastimae-convert. So a flag
applies to each file that has a field of that name; other files are read as without the flag, and
the log says so.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from fastimae.loaders.beton.fields import NO_LABELS
from fastimae.loaders.beton.reader import field_names
from fastimae.loaders.errors import DataError
from fastimae.loaders.image_location import printable
from fastimae.log import log
from fastimae.settings import ConfigError

Fields = dict[str, str | None]
"""Arguments of `BetonReader`."""


def fields_for(source: Path, asked: Fields, betons: Sequence[Path]) -> Fields:
    """Return the flags that apply to `source`; betons: all .beton files of the command.

    Raises ConfigError if there are no .beton files, DataError if none of them has such a field.
    """
    if not any(asked.values()):
        return asked
    if not betons:
        raise ConfigError("--label_field and --image_field are for .beton files: --ffcv, --val")
    names = {path: field_names(path) for path in betons}
    return {flag: _name_for(source, flag, name, names) for flag, name in asked.items()}


def _name_for(
    source: Path, flag: str, name: str | None, names: Mapping[Path, Sequence[str]]
) -> str | None:
    if name is None or (flag, name) == ("label_field", NO_LABELS):
        return name
    if not any(name in fields for fields in names.values()):
        known = "; ".join(f"{path} has {_listed(fields)}" for path, fields in names.items())
        raise DataError(f"--{flag} {name}: no file has a field of this name ({known})")
    if name in names.get(source, ()):
        return name
    if source in names:
        log.info(
            "%s: --%s %s does not apply, as its fields are %s: it is read as without the flag",
            source, flag, name, _listed(names[source]),
        )  # fmt: skip
    return None


def _listed(fields: Sequence[str]) -> str:
    return ", ".join(map(printable, fields))
