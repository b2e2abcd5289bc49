"""Settings and small data for all tests. Nothing is downloaded; images are made here."""

import contextlib
import functools
import gc
import logging
import os
import signal
import sys

# Two test processes on two cores must not compete for threads; tiny models need only one. Runs that
# are compared bit for bit need the same number, whatever the user has set.
os.environ["OMP_NUM_THREADS"] = "1"
# The ffcv library compiles its loops in each process; LLVM's optimiser takes a third of the time.
os.environ["NUMBA_OPT"] = "0"

import numpy as np
import older_pillow
import parse_once
import pytest
import torch
from PIL import Image

# Without a GPU, kernels run in Triton's interpreter. It is selected when they are imported.
if not torch.cuda.is_available():
    os.environ["TRITON_INTERPRET"] = "1"
    with contextlib.suppress(ImportError):  # there is no Triton on macOS, Windows and ARM
        import quick_interpreter

        quick_interpreter.install()

from fastimae.engine import peak, run_file
from fastimae.loaders.base import Batch
from fastimae.wording import as_command

gc.disable()  # until all tests are collected: modules and tests are no garbage
torch.set_num_threads(1)
parse_once.install()
# Hundreds of runs need not measure the machine well, nor each ask git for its commit.
peak.CPU_SPAN = 0.0
run_file.checkout_commit = functools.cache(run_file.checkout_commit)
# Test processes, and those that they start, compile each file once, whatever the user has set.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
sys.dont_write_bytecode = False
# A shell's background job ignores Ctrl-C, and processes that tests start would inherit that.
signal.signal(signal.SIGINT, signal.default_int_handler)
# The time of an example means nothing while processes share the cores.
with contextlib.suppress(ImportError):
    from hypothesis import HealthCheck, settings

    settings.register_profile(
        "shared cores", deadline=None, suppress_health_check=[HealthCheck.too_slow]
    )
    settings.load_profile("shared cores")


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items):
    """Begin with the files of long tests, with which one process might else be left at the end."""
    limits = {}
    for item in items:
        for mark in item.iter_markers("timeout"):
            limits[item.path] = max(limits.get(item.path, 0), *mark.args)
    items.sort(key=lambda item: -limits.get(item.path, 0))


def pytest_collection_finish():
    """Spare the collector what is there for all tests: a million objects, a second each time."""
    gc.freeze()
    gc.enable()


def pytest_terminal_summary(terminalreporter):
    if older_pillow.IS_OLDER:
        terminalreporter.write_line(older_pillow.NOTE)


@pytest.fixture(autouse=True)
def _seeded():
    torch.manual_seed(0)


@pytest.fixture(autouse=True)
def _flags_in_errors():
    """Make errors name flags, as commands do; test_wording.py tests the wording for Python."""
    with as_command():
        yield


@pytest.fixture
def heard(caplog, monkeypatch):
    """Make caplog see the project's log from INFO on, even after a command has set up logging."""
    monkeypatch.setattr(logging.getLogger("fastimae"), "propagate", True)
    caplog.set_level("INFO", "fastimae")


@pytest.fixture
def drawn_figures(monkeypatch):
    """The figures that a test saves, open until its end."""
    from fastimae.pictures import plots  # which imports matplotlib

    figures, close = [], plots.plt.close
    monkeypatch.setattr(plots.plt, "close", figures.append)
    yield figures
    for figure in figures:
        close(figure)


@pytest.fixture(scope="session")
def image_folder(tmp_path_factory):
    """Make an ImageFolder of 4 classes with 12 JPEGs each, 40 to 70 pixels a side."""
    root = tmp_path_factory.mktemp("images")
    rng = np.random.default_rng(0)
    for label in range(4):
        folder = root / f"class_{label}"
        folder.mkdir()
        for number in range(12):
            height, width = rng.integers(40, 70, 2)
            small = rng.integers(0, 255, (4, 4, 3), dtype=np.uint8)
            small[..., label % 3] //= 2
            image = Image.fromarray(small).resize((int(width), int(height)), Image.BICUBIC)
            image.save(folder / f"{number:02d}.jpg", quality=90)
    return root


@pytest.fixture
def make_batch():
    """Return a function (batch size, image size (height, width), channels) -> Batch of noise."""

    def make(size: int, image: tuple[int, int] = (32, 32), channels: int = 3) -> Batch:
        return Batch(
            images=torch.randint(0, 256, (size, *image, channels), dtype=torch.uint8),
            labels=torch.arange(size) % 3,
            index=torch.arange(size),
            key=torch.randint(2**62, (size,)),
            partner=torch.randperm(size),
            step_key=torch.randint(2**62, (1,)),
        )

    return make
