"""Ahead-of-time compilation: kernels that are fine pass, and those that are not are named."""

import json
import os
import subprocess
import sys

import pytest

from benchmarks.harness import ROOT

pytest.importorskip("triton")
aot = pytest.importorskip("benchmarks.aot")

KERNELS = '''
import sys
from unittest import mock

import torch
import triton
import triton.language as tl

from benchmarks import aot
from benchmarks.aot_cases import Case


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


def launch(dtype=torch.float32, step=1, block=1024, warps=4):
    x, out = torch.zeros(4 * block * step, dtype=dtype), torch.zeros(4 * block)
    copy[(4,)](x, out, torch.zeros(1), STEP=step, BLOCK=block, num_warps=warps)


def launch_scatter():
    x, ids = torch.zeros(4096, dtype=torch.uint8), torch.zeros(1024, dtype=torch.int32)
    scatter[(1,)](x, ids, torch.zeros_like(x[:1024]), BLOCK=1024, num_warps=4)


CASES = [
    Case("copy", "fine", launch),
    Case("copy", "spills", lambda: launch(block=8192, warps=1)),
    Case("copy", "in steps", lambda: launch(step=2)),
    Case("copy", "bytes", lambda: launch(torch.uint8, block=256)),
    Case("copy", "bytes as stated", lambda: launch(torch.uint8, block=256), {"x_ptr": 2}),
    Case("copy", "too wide", launch, {"x_ptr": 4}),
    Case("scatter", "bytes", launch_scatter),
]
with mock.patch.object(aot, "cases", lambda: CASES):
    sys.exit(aot.main(sys.argv[1:]))
'''


def run(arguments, tmp_path):
    """Exit code and rows, in a process of its own: here kernels are the interpreter's."""
    environment = {k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"}
    out = tmp_path / "aot.json"
    done = subprocess.run(
        [sys.executable, *arguments, "--arch", "90", "--out", str(out)],
        cwd=ROOT, env=environment | {"PYTHONPATH": str(ROOT)}, capture_output=True, text=True,
        timeout=150, check=False,
    )  # fmt: skip
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
    }


def test_ops_at_the_shapes_of_imae(tmp_path):
    code, rows = run(["-m", "benchmarks.aot", "--only", "ViT-B/16 224 i-MAE"], tmp_path)
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
