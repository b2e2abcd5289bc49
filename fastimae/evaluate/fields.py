"""--label_field and --image_field where several .beton files are given.

A file of the ffcv library may call its fields otherwise than one of fastimae-convert. So a flag is
for each file that has a field called so; another is read by the usual rule, which a line says.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from fastimae.loaders.beton import field_names
from fastimae.loaders.beton_fields import NO_LABELS
from fastimae.loaders.errors import DataError
from fastimae.loaders.items import shown
from fastimae.log import log
from fastimae.settings import ConfigError

Fields = dict[str, str | None]
"""Arguments of `BetonReader`."""


def fields_for(source: Path, asked: Fields, betons: Sequence[Path]) -> Fields:
    """What is asked of `source`, one of the .beton files of a command.

    Raises ConfigError where there are none, and DataError where none has such a field.
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
        had = "; ".join(f"{path} has {_listed(fields)}" for path, fields in names.items())
        raise DataError(f"--{flag} {name}: no file has a field of this name ({had})")
    if name in names.get(source, ()):
        return name
    if source in names:
        log.info(
            "%s: --%s %s is not for it, as its fields are %s: it is read as without the flag",
            source, flag, name, _listed(names[source]),
        )  # fmt: skip
    return None


def _listed(fields: Sequence[str]) -> str:
    return ", ".join(map(shown, fields))
