"""What a Python user meets first: names that complete, and docstrings that explain arguments."""

import importlib
import inspect
import re

import pytest
import torch

import fastimae

PARTS = ("interop", "kernels", "loaders", "models", "objectives")
PACKAGES = ["fastimae", *(f"fastimae.{part}" for part in PARTS)]
PUBLIC = {
    f"{package}.{name}": getattr(importlib.import_module(package), name)
    for package in PACKAGES
    for name in importlib.import_module(package).__all__
}
FIELDS = ("Batch", "LoaderSettings", "Mask", "PixelStore", "ResizeTaps")
"""Each field is explained below it."""


def takes_arguments(name, value):
    is_error = inspect.isclass(value) and issubclass(value, Exception)
    return callable(value) and not is_error and not name.endswith((*FIELDS, "Objective"))


@pytest.mark.parametrize("package", PACKAGES)
def test_dir_lists_the_public_names(package):
    module = importlib.import_module(package)
    assert set(module.__all__) <= set(dir(module))


@pytest.mark.parametrize("name", [n for n, value in PUBLIC.items() if takes_arguments(n, value)])
def test_docstrings_explain_every_argument(name):
    """That of a class, or of its constructor."""
    value = PUBLIC[name]
    text = inspect.getdoc(value)
    if inspect.isclass(value):
        text += inspect.getdoc(value.__init__) or ""
    for argument in inspect.signature(value).parameters:
        assert re.search(rf"\b{argument}\b", text), argument


def test_models_are_listed():
    names = fastimae.list_models()
    assert len(names) == len(set(names)) and "mae_vit_base_patch16" in names
    assert fastimae.list_models("*nano_patch?") == [f"mae_vit_nano_patch{n}" for n in range(2, 10)]
    for name in fastimae.list_models("*_patch16"):
        with torch.device("meta"):
            assert fastimae.create_model(name, img_size=32).patch_size == 16
