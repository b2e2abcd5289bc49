"""One launch, compiled for one architecture and judged by the rules of `tests.aot`."""

from __future__ import annotations

import itertools
import re
import subprocess
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path

import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource, CompiledKernel, make_backend
from triton.runtime.jit import create_function_from_signature

from tests.aot.launches import Launch
from tests.aot.models import AotCase
from tests.aot.ptx import UNKNOWN, Access, memory_accesses
from tests.aot.tables import names

WIDE = 8
"""Bytes per thread that an access to a bulk tensor moves at least."""
OVERLAPPED = r"wgmma\.wait_group\.sync\.aligned\s+[1-9]"
SHARED_MEMORY = {80: 163 * 1024, 90: 227 * 1024, 100: 227 * 1024}
CUOBJDUMP = Path(triton.__file__).parent / "backends/nvidia/bin/cuobjdump"


def compiled_row(case: AotCase, launch: Launch, arch: int) -> dict[str, object]:
    """Compile a launch; return its row of the table, with why it falls short, if it does."""
    source, options = specialise(launch, arch)
    start = time.perf_counter()
    compiled = triton.compile(source, target=GPUTarget("cuda", arch, 32), options=options)
    seconds = time.perf_counter() - start
    registers, local = _resources(compiled.asm["cubin"])
    accesses = memory_accesses(compiled.asm["ptx"], _parameters(source.signature))
    accesses = {access for access in accesses if access.pointer in launch.bulk() | {UNKNOWN}}
    short = [f"{local} bytes spilled"] * (local > 0)
    short += _short_of_hardware(case, compiled, arch) + _too_narrow(case, accesses)
    return names(case, launch, arch) | {
        "warps": options["num_warps"],
        "registers": registers,
        "local": local,
        "shared": compiled.metadata.shared,
        "load": _widths(accesses, loads=True),
        "store": _widths(accesses, loads=False),
        "seconds": round(seconds, 2),
        "falls short": ", ".join(short),
    }


def specialise(launch: Launch, arch: int) -> tuple[ASTSource, dict[str, object]]:
    """Return what Triton's just-in-time compiler would compile for a launch, and its options."""
    kernel, target = launch.kernel, GPUTarget("cuda", arch, 32)
    backend = make_backend(target)
    bind = create_function_from_signature(kernel.signature, kernel.params, backend)
    bound, specialisation, options = bind(*launch.args, **launch.options)
    given = {**launch.options, "debug": False}
    options, signature, constants, attributes = kernel._pack_args(
        backend, given, bound, specialisation, options
    )
    return ASTSource(kernel, signature, constants, attributes), options.__dict__


def _short_of_hardware(case: AotCase, compiled: CompiledKernel, arch: int) -> list[str]:
    short = []
    long_sums = case.long_sums and "tt.dot" in compiled.asm["ttir"]
    if long_sums and arch == 90 and not re.search(OVERLAPPED, compiled.asm["ptx"]):
        short.append("products do not overlap")
    if compiled.metadata.shared > SHARED_MEMORY.get(arch, 2**20):
        short.append("too much shared memory")
    return short


def _too_narrow(case: AotCase, accesses: set[Access]) -> list[str]:
    """Name the accesses that are narrower than the case allows, or wider than its data allow."""
    short = []
    for access in sorted(accesses, key=str):
        expected = case.narrow.get(access.pointer, WIDE)
        if access.width < expected or access.width > expected < WIDE:
            verb = "loads" if access.loads else "stores"
            short.append(f"{verb} {access.width} bytes of {access.pointer}")
    return short


def _parameters(signature: Mapping[str, str]) -> list[str]:
    """Return the names of the compiled kernel's parameters.

    The descriptor of a matrix is followed by its two sizes and two strides.
    """
    given = [(name, kind) for name, kind in signature.items() if kind != "constexpr"]
    with_sizes = ([name] + 4 * ["size"] * kind.startswith("tensordesc") for name, kind in given)
    return list(itertools.chain(*with_sizes))


def _widths(accesses: set[Access], loads: bool) -> str:
    """Return the widest and narrowest access to bulk tensors, in bytes per thread."""
    widths = [access.width for access in accesses if access.loads == loads]
    return f"{max(widths)}/{min(widths)}" if widths else "-"


def _resources(cubin: bytes) -> tuple[int, int]:
    """Return registers and bytes of local memory per thread: spilled registers are on its stack."""
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(cubin)
        file.flush()
        command = [CUOBJDUMP, "-res-usage", file.name]
        text = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    pattern = r"REG:(\d+) STACK:(\d+) .*?LOCAL:(\d+)"
    registers, stack, local = (int(number) for number in re.search(pattern, text).groups())
    return registers, stack + local
