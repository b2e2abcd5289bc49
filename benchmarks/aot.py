"""Every Triton kernel compiled ahead of time, without a GPU: `python -m benchmarks.aot`.

Cases call the ops on CPU tensors of real shapes. Their launches are caught before they reach a
driver, specialised as Triton itself would, and compiled for each architecture. So launch settings
under test are those in use. Prints a table and exits 1 if a kernel falls short. The rule:

- no spilled registers (local memory), and no more shared memory than a block may have;
- every instruction that loads or stores a bulk tensor moves at least 8 bytes a thread. Bulk is a
  tensor with a tenth or more of the bytes of all tensors that the kernel was given. Where data
  are aligned or ordered for fewer bytes, the case says for how many, and those it must be: more
  would reach over the end of a run.
"""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import os
import re
import subprocess
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterator, Mapping
from pathlib import Path
from unittest import mock

import torch
import triton
from torch import Tensor
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource, make_backend
from triton.runtime.jit import JITFunction, create_function_from_signature

from benchmarks.aot_cases import Case, cases
from benchmarks.aot_tables import fingerprint, identity, problems
from benchmarks.harness import Report, out_file, table
from fastimae.flags import OnceParser
from fastimae.kernels import _attention_choice, _launch

PROG = "python -m benchmarks.aot"
WIDE, BULK = 8, 0.1
ARCHS = [80, 90, 100]
UNKNOWN = "a tensor unknown"  # its address went through shared memory
SHARED_MEMORY = {80: 163 * 1024, 90: 227 * 1024, 100: 227 * 1024}
CUOBJDUMP = Path(triton.__file__).parent / "backends/nvidia/bin/cuobjdump"


@dataclasses.dataclass(frozen=True)
class Launch:
    """A launch that was caught: the kernel, and what it was called with, options included."""

    kernel: JITFunction
    args: tuple[object, ...]
    options: Mapping[str, object]

    def given(self) -> dict[str, object]:
        """The kernel's arguments by name."""
        signature = self.kernel.signature
        named = {k: v for k, v in self.options.items() if k in signature.parameters}
        return signature.bind(*self.args, **named).arguments

    def bulk(self) -> set[str]:
        """Names of the pointers to tensors with a considerable share of all bytes."""
        sizes = {name: x.nbytes for name, x in self.given().items() if isinstance(x, Tensor)}
        return {name for name, size in sizes.items() if size >= BULK * sum(sizes.values())}

    def fingerprint(self) -> str:
        """See `aot_tables`."""
        options = {k: v for k, v in self.options.items() if k not in self.kernel.arg_names}
        return fingerprint(self.kernel, self.given(), sorted(options.items()))


@dataclasses.dataclass(frozen=True)
class Access:
    """A kind of global memory instruction: whether it loads, through which pointer, its width."""

    loads: bool
    pointer: str
    width: int


def main(argv: list[str] | None = None) -> int:
    """Compile the cases; 0 if no kernel falls short."""
    parser = OnceParser(prog=PROG, description=__doc__)
    parser.add_argument("--out", type=out_file, help="file for the table as JSON")
    parser.add_argument("--arch", type=int, nargs="+", default=ARCHS, metavar="N")
    parser.add_argument("--only", default="", help="cases with this text in 'op name'")
    parser.add_argument("--check", type=Path, nargs="+", metavar="TABLE", help="are these of now?")
    options = parser.parse_args(argv)
    if options.check:
        return check(options.check)
    os.environ["TRITON_ALWAYS_COMPILE"] = "1"  # or seconds are those of Triton's cache
    chosen = [case for case in cases() if options.only in f"{case.op} {case.name}"]
    rows = compile_cases(chosen, options.arch)
    print(table(rows))
    Report(torch.device("cpu"), PROG, argv, options.out, rows=rows).finish()
    short = [row for row in rows if row["falls short"]]
    print(f"{len(rows)} kernels compiled, {len(short)} fall short")
    return int(bool(short) or not rows)


def check(tables: list[Path]) -> int:
    """Print what is wrong with tables for all three architectures; 0 if nothing is."""
    now = [identity(_names(*one)) for one in distinct(list(cases()), ARCHS)]
    lines = [line for path in tables for line in problems(path, now)]
    print("\n".join(lines) or f"{len(tables)} tables of {len(now)} kernels, which are those of now")
    return int(bool(lines))


def compile_cases(cases: list[Case], archs: list[int]) -> list[dict[str, object]]:
    """A row for each kernel, specialisation and architecture, the first case that needs it."""
    if os.environ.get("TRITON_INTERPRET") == "1":
        raise SystemExit("benchmarks.aot compiles kernels: unset TRITON_INTERPRET")
    return [_row(case, launch, arch) for case, launch, arch in distinct(cases, archs)]


def distinct(cases: list[Case], archs: list[int]) -> Iterator[tuple[Case, Launch, int]]:
    """Launches of the cases on each architecture that are compiled differently."""
    seen = set()
    for case, arch in itertools.product(cases, archs):
        if case.only_on is not None and arch not in case.only_on:
            continue
        with caught_launches(arch) as launches:
            _backward(case.call())
        if not launches:
            raise RuntimeError(f"{case.op} {case.name} launched no kernel")
        for launch in launches:
            key = (launch.fingerprint(), arch, str(case.narrow))
            if key not in seen:
                seen.add(key)
                yield case, launch, arch


@contextlib.contextmanager
def caught_launches(arch: int) -> Iterator[list[Launch]]:
    """A list that receives every launch on an architecture instead of the GPU. Ops take CPU
    tensors meanwhile."""
    launches: list[Launch] = []

    def run(self, *args, grid, warmup, **options):
        launches.append(Launch(self, args, options))

    with (
        mock.patch.object(JITFunction, "run", run),
        mock.patch.object(_launch, "interpreted", lambda: True),
        mock.patch.object(_attention_choice, "capability", lambda device: divmod(arch, 10)),
    ):
        yield launches


def _backward(outputs: object) -> None:
    for out in outputs if isinstance(outputs, tuple) else (outputs,):
        if isinstance(out, Tensor) and out.requires_grad:
            out.backward(torch.empty_like(out), retain_graph=True)


def specialise(launch: Launch, arch: int) -> tuple[ASTSource, dict[str, object]]:
    """What Triton's just-in-time compiler would compile for a launch, and with which options."""
    kernel, target = launch.kernel, GPUTarget("cuda", arch, 32)
    backend = make_backend(target)
    bind = create_function_from_signature(kernel.signature, kernel.params, backend)
    bound, specialisation, options = bind(*launch.args, **launch.options)
    given = {**launch.options, "debug": False}
    options, signature, constants, attributes = kernel._pack_args(
        backend, given, bound, specialisation, options
    )
    return ASTSource(kernel, signature, constants, attributes), options.__dict__


def _row(case: Case, launch: Launch, arch: int) -> dict[str, object]:
    source, options = specialise(launch, arch)
    start = time.perf_counter()
    compiled = triton.compile(source, target=GPUTarget("cuda", arch, 32), options=options)
    seconds = time.perf_counter() - start
    registers, local = _resources(compiled.asm["cubin"])
    pointers = [name for name, kind in source.signature.items() if kind != "constexpr"]
    accesses = memory_accesses(compiled.asm["ptx"], pointers)
    accesses = {access for access in accesses if access.pointer in launch.bulk() | {UNKNOWN}}
    short = [f"{local} bytes spilled"] * (local > 0)
    if compiled.metadata.shared > SHARED_MEMORY.get(arch, 2**20):
        short.append("too much shared memory")
    for access in sorted(accesses, key=str):
        expected = case.narrow.get(access.pointer, WIDE)
        if access.width < expected or access.width > expected < WIDE:
            verb = "loads" if access.loads else "stores"
            short.append(f"{verb} {access.width} bytes of {access.pointer}")
    return _names(case, launch, arch) | {
        "warps": options["num_warps"],
        "registers": registers,
        "local": local,
        "shared": compiled.metadata.shared,
        "load": _widths(accesses, loads=True),
        "store": _widths(accesses, loads=False),
        "seconds": round(seconds, 2),
        "falls short": ", ".join(short),
    }


def _names(case: Case, launch: Launch, arch: int) -> dict[str, object]:
    """The columns that say which kernel a row is of."""
    return {
        "op": case.op,
        "kernel": launch.kernel.__name__,
        "case": case.name,
        "arch": f"sm_{arch}",
        "fingerprint": launch.fingerprint(),
    }


def _widths(accesses: set[Access], loads: bool) -> str:
    """Widest and narrowest access to bulk tensors, bytes a thread."""
    widths = [access.width for access in accesses if access.loads == loads]
    return f"{max(widths)}/{min(widths)}" if widths else "-"


def _resources(cubin: bytes) -> tuple[int, int]:
    """Registers, and bytes of local memory a thread: spilled registers are on its stack."""
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(cubin)
        file.flush()
        command = [CUOBJDUMP, "-res-usage", file.name]
        text = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    pattern = r"REG:(\d+) STACK:(\d+) .*?LOCAL:(\d+)"
    registers, stack, local = (int(number) for number in re.search(pattern, text).groups())
    return registers, stack + local


def memory_accesses(ptx: str, parameters: list[str]) -> set[Access]:
    """Kinds of global memory accesses, each traced from its address back to a kernel parameter."""
    sources: dict[str, set[str]] = defaultdict(set)
    found = []
    for name, operands in re.findall(r"^\s*(?:@!?%p\d+ )?\s*([a-z][\w.:]+)\s+(.*?);", ptx, re.M):
        if ".global" in name and name.startswith(("ld.", "st.", "cp.async")):
            address = re.findall(r"\[\s*(%\w+)", operands)[-1]
            found.append((not name.startswith("st."), address, _width(name, operands)))
        elif name.startswith("ld.param"):
            number = int(re.search(r"_param_(\d+)", operands)[1])
            sources[re.search(r"%\w+", operands)[0]].update(parameters[number : number + 1])
        elif not name.startswith("ld."):  # what a load brings is an index, never an address
            result, *rest = re.findall(r"%\w+", operands) or ["%none"]
            sources[result].update(rest)
    return {
        Access(loads, pointer, width)
        for loads, address, width in found
        for pointer in {x for x in _roots(address, sources) if x.endswith("_ptr")} or {UNKNOWN}
    }


def _width(name: str, operands: str) -> int:
    """Bytes that one thread moves with an instruction."""
    if name.startswith("cp.async"):
        return int(operands.split("]", 2)[2].strip(" ,").split(",")[0], 0)
    vector = re.search(r"\.v(\d)", name)
    return int(re.search(r"\.[busf](\d+)$", name)[1]) // 8 * (int(vector[1]) if vector else 1)


def _roots(register: str, sources: Mapping[str, set[str]]) -> set[str]:
    """Parameters that a register was computed from."""
    roots, seen, pending = set(), set(), [register]
    while pending:
        name = pending.pop()
        if not name.startswith("%"):
            roots.add(name)
        elif name not in seen:
            seen.add(name)
            pending.extend(sources.get(name, ()))
    return roots


if __name__ == "__main__":
    raise SystemExit(main())
