"""Ahead-of-time compilation: kernels that are fine pass, and those that are not are named."""

import importlib.util
import json
import os
import subprocess
import sys

import pytest
import torch

from benchmarks.harness import ROOT

pytest.importorskip("triton")
aot = pytest.importorskip("tests.aot.__main__")
aot_tables = pytest.importorskip("tests.aot.tables")

KERNELS = '''
import sys
from unittest import mock

import torch
import triton
import triton.language as tl

from tests.aot import __main__ as aot
from tests.aot.models import AotCase


@triton.jit
def copy(x_ptr, out_ptr, scale_ptr, STEP: tl.constexpr, BLOCK: tl.constexpr):
    """Each STEP-th value of x, times a scalar, less the sum of all: all are alive at once."""
    i = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    x = tl.load(x_ptr + i * STEP).to(tl.float32) * tl.load(scale_ptr)
    tl.store(out_ptr + i, x - tl.sum(x))


@triton.jit
def scatter(x_ptr, ids_ptr, out_ptr, BLOCK: tl.constexpr):
    """Ids are read wide, x is read where they say, a byte at a time."""
    i = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    tl.store(out_ptr + i, tl.load(x_ptr + tl.load(ids_ptr + i)))


@triton.jit
def product(x_ptr, out_ptr, depth, SIDE: tl.constexpr, STAGES: tl.constexpr):
    """x x^T of a block of rows."""
    row, inner = tl.arange(0, SIDE)[:, None], tl.arange(0, 64)[None, :]
    sums = tl.zeros((SIDE, SIDE), tl.float32)
    for k in tl.range(0, depth, 64, num_stages=STAGES):
        x = tl.load(x_ptr + row * depth + k + inner)
        sums = tl.dot(x, x.T, sums)
    tl.store(out_ptr + row * SIDE + tl.arange(0, SIDE)[None, :], sums.to(tl.bfloat16))


def launch_product(stages):
    x = torch.zeros(128, 1024, dtype=torch.bfloat16)
    product[(1,)](x, x[:, :128].contiguous(), 1024, SIDE=128, STAGES=stages, num_warps=4)


def launch(dtype=torch.float32, step=1, block=1024, warps=4):
    x, out = torch.zeros(4 * block * step, dtype=dtype), torch.zeros(4 * block)
    copy[(4,)](x, out, torch.zeros(1), STEP=step, BLOCK=block, num_warps=warps)


def launch_scatter():
    x, ids = torch.zeros(4096, dtype=torch.uint8), torch.zeros(1024, dtype=torch.int32)
    scatter[(1,)](x, ids, torch.zeros_like(x[:1024]), BLOCK=1024, num_warps=4)


CASES = [
    AotCase("copy", "fine", launch),
    AotCase("copy", "spills", lambda: launch(block=8192, warps=1)),
    AotCase("copy", "in steps", lambda: launch(step=2)),
    AotCase("copy", "bytes", lambda: launch(torch.uint8, block=256)),
    AotCase("copy", "bytes as stated", lambda: launch(torch.uint8, block=256), {"x_ptr": 2}),
    AotCase("copy", "too wide", launch, {"x_ptr": 4}),
    AotCase("scatter", "bytes", launch_scatter),
    AotCase("product", "overlapping", lambda: launch_product(3), long_sums=True),
    AotCase("product", "one by one", lambda: launch_product(1), long_sums=True),
    AotCase("product", "short", lambda: launch_product(2)),
]
with mock.patch.object(aot, "cases", lambda: CASES):
    sys.exit(aot.main(sys.argv[1:]))
'''


def started(arguments):
    """Run Python in another process: in this one kernels run in the interpreter."""
    environment = {k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"}
    return subprocess.run(
        [sys.executable, *arguments], cwd=ROOT, env=environment | {"PYTHONPATH": str(ROOT)},
        capture_output=True, text=True, timeout=150, check=False,
    )  # fmt: skip


def run(arguments, tmp_path):
    """Return the exit code and the rows."""
    out = tmp_path / "aot.json"
    done = started([*arguments, "--arch", "90", "--out", str(out)])
    assert out.exists(), done.stderr
    report = json.loads(out.read_text())
    assert {"device", "versions", "commit", "date", "command"} <= set(report)
    return done.returncode, report["rows"]


def test_kernels_that_fall_short_are_named(tmp_path):
    script = tmp_path / "kernels.py"
    script.write_text(KERNELS)
    code, rows = run([str(script)], tmp_path)
    assert code == 1
    short = {f"{row['op']} {row['case']}": row["falls short"] for row in rows}
    assert short.pop("copy spills").endswith("bytes spilled")
    assert short == {
        "copy fine": "",
        "copy in steps": "loads 4 bytes of x_ptr",
        "copy bytes": "loads 2 bytes of x_ptr",
        "copy bytes as stated": "",
        "copy too wide": "loads 16 bytes of x_ptr",
        "scatter bytes": "loads 1 bytes of x_ptr",
        "product overlapping": "",
        "product one by one": "products do not overlap",
        "product short": "",
    }


def test_ops_at_the_shapes_of_imae(tmp_path):
    code, rows = run(["-m", "tests.aot", "--only", "ViT-B/16 224 i-MAE"], tmp_path)
    assert code == 0
    assert {row["op"] for row in rows} == {"mixing_ratio", "mix_patchify", "masked_l2", "latent_l2"}
    for row in rows:
        assert row["arch"] == "sm_90" and row["local"] == 0 and 8 < row["registers"] <= 128
    losses = [row for row in rows if row["kernel"] == "_masked_l2_kernel"]
    # Triton 3.6 loads the bytes of pixels by 16, 3.9 by 8.
    assert [row["store"] for row in losses] == ["16/16"]
    assert losses[0]["load"] in ("16/8", "16/16")


def test_the_interpreter_compiles_nothing(monkeypatch):
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    with pytest.raises(SystemExit, match="unset TRITON_INTERPRET"):
        aot.compile_cases([], [90])


def stale_copy(path, folder):
    """Write a table that lacks a kernel, has one of other code and one that falls short."""
    report = json.loads(path.read_text())
    dropped, changed, short = report["rows"][:3]
    report["rows"] = report["rows"][1:]
    changed["fingerprint"], short["falls short"] = "0", "8 bytes spilled"
    copy = folder / f"stale_{path.name}"
    copy.write_text(json.dumps(report))
    name = " ".join(changed[part] for part in ("op", "kernel", "case", "arch"))
    gone = " ".join(dropped[part] for part in ("op", "kernel", "case", "arch"))
    return copy, {
        f"{copy.name}: {short['kernel']} falls short: 8 bytes spilled",
        f"{copy.name}: {gone} is missing, or from other code",
        f"{copy.name}: {name} is missing, or from other code",
        f"{copy.name}: {name} is not a current kernel",
    }


def test_committed_tables_match_the_current_kernels(tmp_path):
    """For Triton 3.6, which comes with torch 2.11, and for the newest; nothing is compiled. If this
    fails, python -m tests.aot --out rewrites them (docs/kernels.md)."""
    tables = [ROOT / "benchmarks/results" / name for name in ("aot.json", "aot_triton36.json")]
    newest, oldest = (json.loads(path.read_text())["versions"]["triton"] for path in tables)
    assert oldest.startswith("3.6.") and newest > oldest
    stale, expected = stale_copy(tables[0], tmp_path)
    done = started(["-m", "tests.aot", "--check", *map(str, [*tables, stale])])
    assert done.returncode == 1, done.stderr
    assert set(done.stdout.splitlines()) == expected


KERNEL = """
from triton.runtime.jit import JITFunction

@JITFunction
def half(x):
    return x / 2

@JITFunction
def kernel(x_ptr, size, BLOCK):
    y = half(BLOCK)
"""


def fingerprint(folder, text=KERNEL, size=64, block=8, dtype=torch.float32):
    """Take the fingerprint of a kernel in a new file, launched with these arguments."""
    path = folder / f"kernel_{len(list(folder.iterdir()))}.py"
    path.write_text(text)
    specification = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    given = {"x_ptr": torch.zeros(16, dtype=dtype), "size": size, "BLOCK": block}
    return aot_tables.fingerprint(module.kernel, given, [("num_warps", 4)])


def test_a_fingerprint_is_of_what_is_compiled(tmp_path):
    same = [
        fingerprint(tmp_path),
        fingerprint(tmp_path, size=128),  # both are multiples of 16
        fingerprint(tmp_path, KERNEL.replace("BLOCK):", 'BLOCK):\n    """Halves."""  # a comment')),
    ]
    other = [
        fingerprint(tmp_path, size=65),
        fingerprint(tmp_path, dtype=torch.float16),
        fingerprint(tmp_path, KERNEL.replace("half(BLOCK)", "half(size)")),
        fingerprint(tmp_path, KERNEL.replace("x / 2", "x / 3")),
        fingerprint(tmp_path, KERNEL.replace("BLOCK):", "BLOCK: 'tl.constexpr'):")),
    ]
    assert len(set(same)) == 1
    assert len({same[0], *other}) == 1 + len(other)
