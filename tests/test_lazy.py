"""Packages give their names and modules as attributes, and import them no earlier than that."""

import importlib
import subprocess
import sys

import pytest


def run(code):
    """Run Python code in a process that has imported nothing of ours, and return what it prints."""
    command = [sys.executable, "-c", code]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()


@pytest.mark.parametrize(
    "name",
    [
        *("create_model", "accelerate", "interop.load_model", "models.vit.run_blocks"),
        *("models.names.SIZES", "objectives.IMAE", "objectives.base.Objective"),
        *("loaders.create_loader", "loaders.base", "kernels.masked_l2", "settings"),
    ],
)
def test_names_and_modules_are_attributes(name):
    """In a fresh process: nothing else has imported the modules before."""
    assert run(f"import fastimae; print(hasattr(fastimae.{name}, '__doc__'))") == ["True"]


@pytest.mark.parametrize("package", ["fastimae", "fastimae.models", "fastimae.loaders"])
def test_an_unknown_name_is_an_attribute_error(package):
    module = importlib.import_module(package)
    with pytest.raises(AttributeError, match=f"'{package}' has no attribute 'no_such_name'"):
        module.no_such_name  # noqa: B018


def test_a_package_is_imported_without_torch():
    code = "import sys, fastimae.models, fastimae.objectives, fastimae.interop, fastimae.loaders"
    assert run(f"{code}; print('torch' in sys.modules)") == ["False"]
