"""Compile every Triton kernel ahead of time, without a GPU: `python -m tests.aot`.

Cases call the ops on CPU tensors of real shapes. Their launches are caught before they reach a
driver, specialised as Triton itself would, and compiled for each architecture. So the launch
settings under test are those in use. Prints a table and exits with 1 if a kernel falls short of
these rules:

- no spilled registers (local memory), and no more shared memory than a block may have;
- where products are long sums, Hopper multiplies by warp groups (wgmma) and starts a product before
  the last one is done;
- every instruction that loads or stores a bulk tensor moves at least 8 bytes per thread. A tensor
  is bulk if it holds a tenth or more of the bytes of all tensors that the kernel is given. Where
  alignment or order allows fewer bytes, the case says how many, and it must be exactly as many:
  more would read past the end of a run. What Hopper copies by descriptors is always wide.
"""

from __future__ import annotations

import multiprocessing
import os
from pathlib import Path
from typing import Any

import torch

from benchmarks.harness import BenchmarkReport, out_file, table
from fastimae.cpus import usable_cores
from fastimae.flags import OnceParser
from tests.aot.compiled import compiled_row
from tests.aot.launches import distinct
from tests.aot.models import AotCase
from tests.aot.op_cases import cases
from tests.aot.tables import identity, names, problems

PROG = "python -m tests.aot"
ARCHS = [80, 90, 100]


def main(argv: list[str] | None = None) -> int:
    """Compile the cases; return 0 if no kernel falls short."""
    parser = OnceParser(prog=PROG, description=__doc__)
    parser.add_argument("--out", type=out_file, help="write the table to this file, as JSON")
    parser.add_argument("--arch", type=int, nargs="+", default=ARCHS, metavar="N")
    parser.add_argument("--only", default="", help="only cases with this text in 'op name'")
    parser.add_argument(
        "--check", type=Path, nargs="+", metavar="TABLE",
        help="compile nothing; check that these tables match the current kernels",
    )  # fmt: skip
    options = parser.parse_args(argv)
    if options.check:
        return check(options.check)
    os.environ["TRITON_ALWAYS_COMPILE"] = "1"  # else the seconds are those of Triton's cache
    chosen = [case for case in cases() if options.only in f"{case.op} {case.name}"]
    rows = compile_cases(chosen, options.arch)
    print(table(rows))
    BenchmarkReport(torch.device("cpu"), PROG, argv, options.out, rows=rows).finish()
    short = [row for row in rows if row["falls short"]]
    print(f"{len(rows)} kernels compiled, {len(short)} fall short")
    return int(bool(short) or not rows)


def check(tables: list[Path]) -> int:
    """Print each problem of tables of all three architectures; return 0 if there is none."""
    current = [identity(names(*one)) for one in distinct(list(cases()), ARCHS)]
    lines = [line for path in tables for line in problems(path, current)]
    print("\n".join(lines) or f"{len(tables)} tables match the {len(current)} current kernels")
    return int(bool(lines))


def compile_cases(cases: list[AotCase], archs: list[int]) -> list[dict[str, object]]:
    """Compile each kernel once per specialisation and architecture; return a row for each."""
    if os.environ.get("TRITON_INTERPRET") == "1":
        raise SystemExit("tests.aot compiles kernels: unset TRITON_INTERPRET")
    count = usable_cores()
    # Forked: cases hold functions, which cannot be sent to another process, but be inherited.
    with multiprocessing.get_context("fork").Pool(count, _inherit, [cases, archs]) as pool:
        shares = pool.map(_share, [(number, count) for number in range(count)], chunksize=1)
    rows = {number: row for share in shares for number, row in share.items()}
    return [rows[number] for number in sorted(rows)]


_inherited: list[Any] = []


def _inherit(*given: Any) -> None:
    _inherited[:] = given


def _share(of: tuple[int, int]) -> dict[int, dict[str, object]]:
    """Compile one of several equal shares of all launches; return the rows by number."""
    share, count = of
    launches = enumerate(distinct(*_inherited))
    return {n: compiled_row(*launch) for n, launch in launches if n % count == share}


if __name__ == "__main__":
    raise SystemExit(main())
