"""Whether tables that `benchmarks.aot` wrote are of the kernels of now: `--check` of it.

Each row has a fingerprint of all that decides what is compiled, the same with any version of
Triton, so that one version's table can be checked where another is installed.
"""

from __future__ import annotations

import ast
import hashlib
import inspect
import json
import textwrap
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

from torch import Tensor
from triton.runtime.jit import JITFunction

Identity = tuple[str, str, str, str, str]
"""Op, kernel, case, architecture and fingerprint of a row."""


def identity(row: Mapping[str, object]) -> Identity:
    """What tells a row of a table from others, and from one of other code."""
    names = ("op", "kernel", "case", "arch", "fingerprint")
    return tuple(str(row.get(name)) for name in names)


def problems(table: Path, now: Iterable[Identity]) -> list[str]:
    """What is wrong with a table, one line each, where `now` are the rows of the code of now."""
    rows = json.loads(table.read_text())["rows"]
    measured, expected = {identity(row) for row in rows}, set(now)
    short = [
        f"{row['kernel']} falls short: {row['falls short']}" for row in rows if row["falls short"]
    ]
    wrong = [f"{_name(row)} is not in it, or of other code" for row in expected - measured]
    wrong += [f"{_name(row)} is no kernel of now" for row in measured - expected]
    return [f"{table.name}: {line}" for line in short + sorted(wrong)]


def _name(row: Identity) -> str:
    return " ".join(row[:4])


def fingerprint(kernel: JITFunction, given: Mapping[str, object], options: object) -> str:
    """Of a launch: the kernel's code, what is known of its arguments, warps and stages."""
    constants = {p.name for p in kernel.params if p.is_constexpr}
    kinds = {k: str(v) if k in constants else _kind(v) for k, v in given.items()}
    parts = (*_sources(kernel.fn), sorted(kinds.items()), options)
    return hashlib.sha256("\n".join(map(str, parts)).encode()).hexdigest()[:12]


def _kind(value: object) -> str:
    """What the compiler learns of an argument that is no constant."""
    if isinstance(value, Tensor):
        return f"{value.dtype} {value.data_ptr() % 16 == 0}"
    if isinstance(value, int) and not isinstance(value, bool):
        return "1" if value == 1 else f"int {value % 16 == 0} {value.bit_length() > 31}"
    return str([_kind(one) for one in value]) if isinstance(value, tuple) else str(type(value))


def _sources(function: Callable[..., None]) -> list[str]:
    """The code of a kernel and of our functions that it calls, without comments."""
    tree = ast.parse(textwrap.dedent(inspect.getsource(function)))
    (body,) = tree.body
    if ast.get_docstring(body):
        del body.body[0]
    names = sorted({node.id for node in ast.walk(tree) if isinstance(node, ast.Name)})
    called = [function.__globals__.get(name) for name in names]
    ours = [one.fn for one in called if isinstance(one, JITFunction) and one.fn is not function]
    return [ast.unparse(tree), *(source for one in ours for source in _sources(one))]
