"""A process can end while the ffcv library's pipeline hangs or works."""

import contextlib
import importlib.util
import os
import signal
import subprocess
import sys

import pytest

TIMEOUT, SAMPLE = 1.5, 3
SCRIPT = """
import ctypes, os, sys, time

from fastimae.loaders import DataError
from fastimae.loaders.beton.reader import BetonReader
from fastimae.loaders.images.crops import Crops
from fastimae.loaders.backends.ffcv import FFCVLoader
from fastimae.loaders.order.sampler import Sampler
from fastimae.loaders.settings import LoaderSettings

path, folder, timeout, row, *kinds = sys.argv[1:]
children = {}
for kind in kinds:  # importing torch once
    if (child := os.fork()) == 0:
        break
    children[child] = kind
else:
    for _ in kinds:
        child, status = os.wait()
        print(children[child], os.waitstatus_to_exitcode(status), flush=True)
    sys.exit()

import numba
import numba.typed

numba.typed.Dict = dict  # see quick_ffcv.py
import ffcv.libffcv

sys.stdout = open(f"{folder}/{kind}", "w")
reader = BetonReader(path)
sampler = Sampler(reader.labels, LoaderSettings(batch_size=8, mix_group=2, seed=5))
row, second = int(row), sampler.step(0, 1).index

sleep = ctypes.CDLL(None).usleep
sleep.argtypes = [ctypes.c_uint32]
imdecode = ffcv.libffcv.ctypes_imdecode
height, width = int(reader.heights[second[row]]), int(reader.widths[second[row]])


naps = 10**9 if kind == "decoding" else 10


@numba.njit
def decode_or_sleep(data, size, rows, columns, *rest):
    times = naps if rows == height and columns == width else 0
    while times > 0:
        sleep(100_000)
        times -= 1
    return imdecode(data, size, rows, columns, *rest)


ffcv.libffcv.ctypes_imdecode = decode_or_sleep
loader = FFCVLoader(
    reader, sampler, Crops(size=(24, 32)), timeout=float(timeout),
    num_workers=2 if kind == "decoding" else 1, max_bad_samples=0, pin_mem=False,
)
batches = iter(loader)
print("sum", int(next(batches).images.sum()), second[row], flush=True)
start = time.monotonic()
if kind == "left open":
    sys.exit(7)
try:
    next(batches)
except DataError as error:
    print(error)
waited = time.monotonic() - start
loader.close()
print(f"{waited:.1f}", flush=True)
sys.exit(7)
"""

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("ffcv") is None, reason="the ffcv library is not installed"
)


@pytest.fixture(scope="module")
def said(data, tmp_path_factory):
    """Return {kind of hang: lines that its process printed}."""
    folder, kinds = tmp_path_factory.mktemp("said"), ("decoding", "left open")
    command = [sys.executable, "-W", "ignore", "-c", SCRIPT, data.beton, folder]
    process = subprocess.Popen(
        [*command, str(TIMEOUT), str(SAMPLE), *kinds],
        text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True,
    )  # fmt: skip
    try:
        out, errors = process.communicate(timeout=150)
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
    assert sorted(out.splitlines()) == [f"{kind} 7" for kind in kinds], errors[-2000:]
    assert "ffcv_loader" not in errors, errors[-2000:]
    return {kind: (folder / kind).read_text().splitlines() for kind in kinds}


def test_a_hang_while_decoding_names_the_sample(data, said):
    first, error, seconds = said["decoding"]
    waited = float(seconds)
    name = f"sample {first.split()[-1]} of {data.beton}"
    assert error == f"decoder ffcv hangs: decoding {name} took over {TIMEOUT} s"
    assert waited > TIMEOUT - 0.6  # and the process ended before its naps, which take a day


def test_a_process_ends_in_the_middle_of_an_epoch(said):
    """With an iterator that was not closed, and batches being read ahead."""
    assert len(said["left open"]) == 1
