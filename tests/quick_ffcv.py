"""Import the ffcv library without numba's dict, which takes 7 s of CPU time to compile.

The library has two entries in it, and looks them up in Python while it generates code.
"""

import importlib

import pytest


def import_ffcv():
    """Import it with a dict of Python in that place."""
    from numba import typed

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(typed, "Dict", dict)
        importlib.import_module("ffcv.fields.rgb_image")
