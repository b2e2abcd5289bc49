"""Packages give their names and modules as attributes, and import them no earlier than that."""

import importlib
import subprocess
import sys

import pytest


def run(code, *arguments):
    """Run Python code in a process that has imported nothing of ours, and return what it prints."""
    command = [sys.executable, "-c", code, *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()


NAMES = (
    *("create_model", "accelerate", "interop.load_model", "models.vit.run_blocks"),
    *("models.names.SIZES", "objectives.IMAE", "objectives.base.Objective"),
    *("loaders.create_loader", "loaders.base", "kernels.masked_l2", "settings"),
)
IN_FORKS = """
import os, sys
import torch
for name in sys.argv[1:]:
    child = os.fork()
    if not child:
        try:
            import fastimae
            if hasattr(eval(f"fastimae.{name}"), "__doc__"):
                print(name, flush=True)
        finally:
            os._exit(0)
    os.waitpid(child, 0)
"""


@pytest.fixture(scope="module")
def found():
    """Return those of `NAMES` that exist in a process in which nothing of ours was imported."""
    return run(IN_FORKS, *NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_names_and_modules_are_attributes(name, found):
    """Each by itself: nothing else has imported the modules before."""
    assert name in found


@pytest.mark.parametrize("package", ["fastimae", "fastimae.models", "fastimae.loaders"])
def test_an_unknown_name_is_an_attribute_error(package):
    module = importlib.import_module(package)
    with pytest.raises(AttributeError, match=f"'{package}' has no attribute 'no_such_name'"):
        module.no_such_name  # noqa: B018


def test_a_package_is_imported_without_torch():
    code = "import sys, fastimae.models, fastimae.objectives, fastimae.interop, fastimae.loaders"
    assert run(f"{code}; print('torch' in sys.modules)") == ["False"]
