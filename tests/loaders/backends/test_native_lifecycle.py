"""The engine's threads: they stop when they should, and nothing is left behind."""

import contextlib
import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import numpy as np
import pytest

from fastimae.loaders import native_library
from fastimae.loaders.workers.buffers import KEPT, BufferPool

pytestmark = pytest.mark.skipif(native_library.load() is None, reason=native_library.why_missing())


def threads() -> int:
    """Count the threads of this process, with native ones."""
    return len(list(Path("/proc/self/task").iterdir()))


def settles_at(count: int) -> bool:
    deadline = time.monotonic() + 5
    while threads() != count and time.monotonic() < deadline:
        time.sleep(0.01)
    return threads() == count


@pytest.fixture
def open_files(resources):
    """Count the files that are open now, and were at the beginning."""
    before = resources.at_rest()[2]
    return lambda: (resources.at_rest()[2], before)


def test_closing_ends_the_threads_and_the_file(data, open_files):
    list(data.loader("native-3"))
    before = threads()
    with data.loader("native-3") as loader:
        assert threads() == before + 3
        assert len(next(iter(loader))) == data.batch_size
    assert settles_at(before)
    now, at_first = open_files()
    assert now == at_first


def test_dropping_a_loader_ends_its_threads(data):
    before = threads()
    loader = data.loader("native-4")
    iterator = iter(loader)
    next(iterator)
    del loader, iterator
    assert settles_at(before)


def test_an_exception_in_the_loop_leaves_a_usable_loader(data):
    with data.loader("native-3") as loader:
        with pytest.raises(ZeroDivisionError):
            for number, _ in enumerate(loader):
                1 / (1 - number)
        rest = list(loader)
        loader.set_epoch(0)
        assert data.same(rest, list(loader)[2:])


def test_two_loaders_at_once(data):
    with data.loader("native-2") as first, data.loader("native-3") as second:
        pairs = list(zip(first, second, strict=True))
    assert data.same([a for a, _ in pairs], [b for _, b in pairs])


def test_batches_outlive_their_loader_and_each_other(data):
    with data.loader("native-3") as loader:
        batches = list(loader)
        sums = [int(batch.images.sum()) for batch in batches]
        for epoch in range(1, 4):
            loader.set_epoch(epoch)
            for _ in loader:
                pass
    assert [int(batch.images.sum()) for batch in batches] == sums


def test_memory_is_used_again_only_when_it_is_released():
    pool = BufferPool((4, 5), pin=False)
    held = [pool.take() for _ in range(3 * KEPT)]
    assert len({tensor.data_ptr() for tensor in held}) == len(held)
    part, address = held[0][1:], held[0].data_ptr()
    del held[0]
    assert address not in {pool.take().data_ptr() for _ in range(3)}
    del part
    assert pool.take().data_ptr() == address
    del held
    assert len(pool._free) <= KEPT


def test_a_forked_child_gets_an_error_and_can_exit(data):
    with data.loader("native-2") as loader:
        next(iter(loader))
        child = os.fork()
        if child == 0:
            told = False
            try:
                next(iter(loader))
            except RuntimeError as error:
                told = "fork" in str(error)
            loader.close()
            os._exit(0 if told else 1)
        deadline = time.monotonic() + 20
        done, status = os.waitpid(child, os.WNOHANG)
        while not done and time.monotonic() < deadline:
            time.sleep(0.02)
            done, status = os.waitpid(child, os.WNOHANG)
        if not done:
            os.kill(child, signal.SIGKILL)
        assert (done, status) == (child, 0)
        assert len(list(loader)) == len(loader) - 1


SCRIPT = """
import sys
from fastimae.loaders import create_loader
loader = create_loader(ffcv=sys.argv[1], decoder="native", batch_size=8, input_size=(32, 32),
                       num_workers=3, mix_group=0)
print("ready", flush=True)
"""


def run(data, body):
    script = SCRIPT + textwrap.dedent(body)
    return subprocess.Popen(
        [sys.executable, "-c", script, str(data.beton)],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip


@pytest.mark.parametrize("body", ["iterator = iter(loader)\nnext(iterator)", "raise SystemExit(0)"])
def test_the_interpreter_may_end_with_a_loader_at_work(data, body):
    process = run(data, body)
    out, errors = process.communicate(timeout=60)
    assert (process.returncode, out, errors) == (0, "ready\n", "")


def test_ctrl_c_stops_at_once(data):
    """It is sent again if need be: Python drops one that arrives while it runs a finalizer."""
    process = run(
        data,
        """
        while True:
            for epoch in range(1000):
                loader.set_epoch(epoch)
                for batch in loader:
                    pass
                if epoch == 1:
                    print("at work", flush=True)
        """,
    )
    assert process.stdout.readline() == "ready\n"
    assert process.stdout.readline() == "at work\n"
    for _ in range(3):
        process.send_signal(signal.SIGINT)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(timeout=20)
            break
    _, errors = process.communicate(timeout=20)
    assert errors.strip().endswith("KeyboardInterrupt")


def test_a_closed_loader_raises_an_error(data):
    loader = data.loader("native-1")
    loader.close()
    loader.close()
    with pytest.raises(ValueError, match="closed"):
        iter(loader)
    with pytest.raises(ValueError, match="closed"):
        loader.stage_times()


def test_stage_times_add_up(data):
    with data.loader("native-0") as loader:
        start = time.perf_counter()
        shown = sum(len(batch) for batch in loader)
        elapsed = time.perf_counter() - start
        times = loader.stage_times()
    assert times.pop("images") == shown
    assert all(np.array(list(times.values())) > 0)
    assert sum(times.values()) < elapsed
