"""Triton's interpreter patches its language at each call of a function; in tests, at each launch.

That, and a table of types that it builds for each operation, are half of the time of a program.
"""

from triton import language
from triton.runtime import interpreter

patch, np_dtype = interpreter._patch_lang, interpreter._get_np_dtype
scopes, patched, dtypes = [], set(), {}


class Launch:
    """What the launch in progress has patched."""

    @staticmethod
    def restore():
        patched.clear()
        while scopes:
            scopes.pop().restore()


def patch_once(function):
    parts = {id(value) for value in function.__globals__.values()}
    parts &= {id(language), id(language.core)}
    if not parts <= patched:
        patched.update(parts)
        scopes.append(patch(function))  # Triton 3.5 returns None, and never restores
    return Launch


def np_dtype_once(dtype):
    name = dtype.scalar.name
    if name not in dtypes:
        dtypes[name] = np_dtype(dtype)
    return dtypes[name]


def install():
    """Make kernels of this process use it."""
    interpreter._patch_lang, interpreter._get_np_dtype = patch_once, np_dtype_once
