"""Where `fastimae.kernels` and `fastimae.loaders` are in a checkout: beside this folder.

An installation has both folders inside the package, since setup.py maps them there; then nothing is
done here.
"""

from __future__ import annotations

import sys
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec
from importlib.util import spec_from_file_location
from pathlib import Path

HERE = Path(__file__).parent
BESIDE = {f"fastimae.{name}": HERE.with_name(name) for name in ("kernels", "loaders")}
"""The packages, and their folders in a checkout."""


class Beside(MetaPathFinder):
    """Finds the packages that a checkout has beside `fastimae/`."""

    def find_spec(self, fullname: str, path: object, target: object = None) -> ModuleSpec | None:
        """Return where a package is; None for all other modules."""
        folder = BESIDE.get(fullname)
        if folder is None or not (folder / "__init__.py").exists():
            return None
        return spec_from_file_location(
            fullname, folder / "__init__.py", submodule_search_locations=[str(folder)]
        )


def find_packages_beside() -> None:
    """Make the packages of a checkout importable; in an installation, do nothing.

    This finder is the first: that of an editable installation would take them from its checkout.
    """
    if not (HERE / "kernels/__init__.py").exists():
        sys.meta_path.insert(0, Beside())
