"""The --check of `tests.aot`: whether tables that it wrote match the current kernels.

Each row has a fingerprint of everything that decides what is compiled. It is the same with any
version of Triton, so one version's table can be checked where another is installed.
"""

from __future__ import annotations

import ast
import functools
import hashlib
import inspect
import json
import textwrap
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from torch import Tensor
from triton.runtime.jit import JITFunction

if TYPE_CHECKING:
    from tests.aot.launches import Launch
    from tests.aot.models import AotCase

Identity = tuple[str, str, str, str, str]
"""Op, kernel, case, architecture and fingerprint of a row."""


def names(case: AotCase, launch: Launch, arch: int) -> dict[str, object]:
    """Return the columns that identify the kernel of a row."""
    return {
        "op": case.op,
        "kernel": launch.kernel.__name__,
        "case": case.name,
        "arch": f"sm_{arch}",
        "fingerprint": launch.fingerprint(),
    }


def identity(row: Mapping[str, object]) -> Identity:
    """Return what distinguishes a row of a table from others, and from a row of other code."""
    columns = ("op", "kernel", "case", "arch", "fingerprint")
    return tuple(str(row.get(column)) for column in columns)


def problems(table: Path, current: Iterable[Identity]) -> list[str]:
    """Compare a table with the rows of the current code; return one line for each difference."""
    rows = json.loads(table.read_text())["rows"]
    measured, expected = {identity(row) for row in rows}, set(current)
    short = [
        f"{row['kernel']} falls short: {row['falls short']}" for row in rows if row["falls short"]
    ]
    wrong = [f"{_name(row)} is missing, or from other code" for row in expected - measured]
    wrong += [f"{_name(row)} is not a current kernel" for row in measured - expected]
    return [f"{table.name}: {line}" for line in short + sorted(wrong)]


def _name(row: Identity) -> str:
    return " ".join(row[:4])


def fingerprint(kernel: JITFunction, given: Mapping[str, object], options: object) -> str:
    """Hash a launch: the kernel's code, what is known of its arguments, warps and stages."""
    constants = {p.name for p in kernel.params if p.is_constexpr}
    kinds = {k: str(v) if k in constants else _kind(v) for k, v in given.items()}
    parts = (*_sources(kernel.fn), sorted(kinds.items()), options)
    return hashlib.sha256("\n".join(map(str, parts)).encode()).hexdigest()[:12]


def _kind(value: object) -> str:
    """Return what the compiler learns about an argument that is not a constant."""
    if isinstance(value, Tensor):
        return f"{value.dtype} {value.data_ptr() % 16 == 0}"
    if hasattr(value, "block_shape"):  # a descriptor
        return f"{_kind(value.base)} in blocks of {value.block_shape}"
    if isinstance(value, int) and not isinstance(value, bool):
        return "1" if value == 1 else f"int {value % 16 == 0} {value.bit_length() > 31}"
    return str([_kind(one) for one in value]) if isinstance(value, tuple) else str(type(value))


@functools.cache
def _sources(function: Callable[..., None]) -> list[str]:
    """Return the code of a kernel and of our functions that it calls, without comments."""
    tree = ast.parse(textwrap.dedent(inspect.getsource(function)))
    (body,) = tree.body
    if ast.get_docstring(body):
        del body.body[0]
    names = sorted({node.id for node in ast.walk(tree) if isinstance(node, ast.Name)})
    called = [function.__globals__.get(name) for name in names]
    ours = [one.fn for one in called if isinstance(one, JITFunction) and one.fn is not function]
    return [ast.unparse(tree), *(source for one in ours for source in _sources(one))]
