"""Batches from worker processes: none gets lost, no endless waits, no process is left over."""

import contextlib
import errno
import multiprocessing
import os
import signal
import subprocess
import sys
import time

import numpy as np
import psutil
import pytest
import torch

from fastimae.loaders import DataError, create_loader
from fastimae.loaders.workers import processes, safe_map, worker_batches
from fastimae.loaders.workers.worker_batches import batches_from_workers

SHAPE = (3, 5)


def fill(step, pixels):
    """Fill the pixels of a step, which depend on the step alone; return this process's id."""
    pixels[...] = np.random.default_rng(step).integers(0, 256, SHAPE)
    return os.getpid()


def batches(work, steps=range(40), workers=2, **settings):
    return batches_from_workers(
        work, steps, shape=SHAPE, dtype=np.uint8, num_workers=workers, **settings
    )


@pytest.mark.parametrize("workers", [0, 1, 3])
def test_batches_are_the_callers_to_keep(workers):
    """There are more of them than slots in the shared memory, all kept to the end."""
    kept = list(batches(fill, workers=workers))
    for step, (pixels, _) in enumerate(kept):
        assert np.array_equal(pixels, np.random.default_rng(step).integers(0, 256, SHAPE))
    makers = {maker for _, maker in kept}
    assert makers == {os.getpid()} if workers == 0 else os.getpid() not in makers
    assert not multiprocessing.active_children()


def test_a_slow_caller_gets_no_later_batch(monkeypatch):
    """While it uses one, the workers fill all the slots that they may."""
    monkeypatch.setattr(worker_batches, "BATCHES_AHEAD", 3)
    for step, (pixels, _) in enumerate(batches(fill, range(12))):
        time.sleep(0.05)
        assert np.array_equal(pixels, np.random.default_rng(step).integers(0, 256, SHAPE))


def test_without_shared_memory_pixels_are_sent(monkeypatch):
    """That is so where workers are not forked."""
    monkeypatch.setattr(worker_batches, "_shared_slots", lambda *_: [])
    for step, (pixels, _) in enumerate(batches(fill, range(3), workers=1)):
        assert np.array_equal(pixels, np.random.default_rng(step).integers(0, 256, SHAPE))


def test_more_workers_than_cores_are_one_line_in_the_log(data, monkeypatch, caplog, recwarn):
    """torch's own warning has four lines, and names no flag."""
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0})
    with (
        caplog.at_level("INFO", "fastimae"),
        create_loader(data_path=data.folder, **data.settings, num_workers=3) as loader,
    ):
        for epoch in range(2):
            loader.set_epoch(epoch)
            assert len(list(loader)) == len(loader)
        worker_batches.check_workers(1)
    (line,) = [r.getMessage() for r in caplog.records if "core(s)" in r.getMessage()]
    assert line.startswith("--num_workers 3, with 1 core(s) to use")
    assert not [warning for warning in recwarn if "DataLoader" in str(warning.message)]


@pytest.mark.timeout(60)
def test_batches_need_no_shared_memory_of_torchs(data, monkeypatch):
    """It is in /dev/shm: when that was full, the first batch was waited for without end."""

    def full(*_):
        raise RuntimeError("unable to allocate shared memory(shm): No space left on device (28)")

    for name in ("_share_fd_cpu_", "_share_filename_cpu_"):
        monkeypatch.setattr(torch.UntypedStorage, name, full)
    sums = []
    for workers in (0, 2):
        with create_loader(data_path=data.folder, **data.settings, num_workers=workers) as loader:
            sums.append([int(batch.images.sum()) for batch in loader])
    assert sums[0] == sums[1] and len(sums[0]) > 1


@pytest.mark.timeout(60)
def test_a_result_that_cannot_be_sent_is_an_error():
    """The error occurs in a thread of the worker, which would only print it."""
    with pytest.raises(DataError, match="a loading process died"):
        list(batches(lambda step, pixels: lambda: step))


@pytest.mark.parametrize(
    "error", [ZeroDivisionError("sixth"), MemoryError("sixth"), DataError("sixth")], ids=repr
)
def test_errors_of_the_work_are_raised_here(error):
    def work(step, pixels):
        if step == 5:
            raise error

    with pytest.raises(type(error), match="sixth"):
        list(batches(work))
    assert not multiprocessing.active_children()


@pytest.mark.timeout(60)
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGBUS, signal.SIGSEGV])
def test_a_worker_that_dies_is_an_error_where_its_batch_is_awaited(number):
    """The kernel sends SIGKILL when memory is short. The error must not hit the training step."""

    def work(step, pixels):
        if step == 5:
            time.sleep(0.2)  # until the previous batch is sent
            os.kill(os.getpid(), number)

    made = batches(work)
    for _ in range(4):
        next(made)
    time.sleep(0.5)  # long enough for it to die
    with pytest.raises(DataError, match="a loading process died, try fewer --num_workers"):
        list(made)
    assert not multiprocessing.active_children()


@pytest.mark.timeout(60)
def test_workers_that_make_nothing_are_an_error(monkeypatch):
    monkeypatch.setattr(worker_batches, "POLL_SECONDS", 0.1)
    monkeypatch.setattr(worker_batches, "MAX_POLLS", 4)
    made = batches(lambda step, pixels: time.sleep(1000) if step > 2 else None)
    for _ in range(3):
        next(made)
    before = time.monotonic()
    monkeypatch.setattr("torch.utils.data._utils.MP_STATUS_CHECK_INTERVAL", 0.1)
    with pytest.raises(DataError, match=r"no batch for 0\.4 s"):
        next(made)
    assert time.monotonic() - before < 10
    assert not alive(multiprocessing.active_children())


def alive(children):
    deadline = time.monotonic() + 5
    while any(child.is_alive() for child in children) and time.monotonic() < deadline:
        time.sleep(0.02)
    return [child for child in children if child.is_alive()]


def test_slow_workers_are_waited_for(monkeypatch):
    """Each takes several polls."""
    monkeypatch.setattr(worker_batches, "POLL_SECONDS", 0.1)
    made = batches(lambda step, pixels: time.sleep(0.35), range(4), workers=1)
    assert len(list(made)) == 4


@contextlib.contextmanager
def handlers(*numbers):
    """Return a list that collects the signals that this process gets."""
    handled = []
    before = {n: signal.signal(n, lambda number, _: handled.append(number)) for n in numbers}
    try:
        yield handled
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def kill(number, children):
    """Send a signal from another process than their parent."""
    pids = [str(child.pid) for child in children]
    subprocess.run(["kill", f"-{number.value}", *pids], check=True)
    time.sleep(0.3)


def test_workers_leave_signals_to_their_parent():
    """All processes of a job get them, but the run may want to finish a step and save."""
    told = signal.SIGTERM, signal.SIGINT, signal.SIGUSR1
    with handlers(*told) as handled:
        made = batches(fill)
        next(made)
        children = multiprocessing.active_children()
        for number in told:
            kill(number, children)
        assert all(child.is_alive() for child in children) and handled == []
        kill(signal.SIGUSR1, [multiprocessing.process.current_process()])
        assert handled == [signal.SIGUSR1]
        assert len(list(made)) == 39
    assert not multiprocessing.active_children()


def test_their_parent_can_end_them():
    made = batches(fill)
    next(made)
    children = multiprocessing.active_children()
    for child in children:
        child.terminate()
    assert not alive(children)
    with pytest.raises(DataError):
        list(made)


PARENTS = """
import itertools, multiprocessing, os, sys, time
from fastimae.loaders.workers.safe_map import safe_map
from fastimae.loaders.workers.worker_batches import batches_from_workers

def work(step, pixels):
    return step

def begin(kind, how):
    os.setsid()
    if kind == "batches":
        made = batches_from_workers(work, range(10**6), shape=(1,), dtype="uint8", num_workers=3)
    else:
        # A pool starts a worker when an item comes while all others are busy.
        made = safe_map(time.sleep, itertools.repeat(0.5), workers=3, chunk=1, crashed=None)
    next(made)
    print(os.getpid(), *(child.pid for child in multiprocessing.active_children()), flush=True)
    if how == "leave":
        sys.exit(7)
    time.sleep(60)

for line in iter(sys.stdin.readline, ""):
    child = os.fork()
    if not child:
        begin(*line.split())
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
"""


@pytest.fixture(scope="module")
def parents(tmp_path_factory):
    """A process that forks one main process for each line it gets, in a session of its own."""
    script = tmp_path_factory.mktemp("parents") / "parents.py"
    script.write_text(PARENTS)
    command, pipe = [sys.executable, str(script)], subprocess.PIPE
    with subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True) as process:
        yield process
        process.stdin.close()


@pytest.mark.parametrize(
    ("kind", "how"),
    [("batches", how) for how in ("killed", "stopped", "leave")]
    + [("map", how) for how in ("killed", "stopped")],
)
def test_no_process_is_left_over(kind, how, parents):
    """The main process is killed, gets SIGTERM with all others, or exits half-way."""
    print(kind, how, file=parents.stdin, flush=True)
    main, *workers = map(int, parents.stdout.readline().split())
    workers = [psutil.Process(worker) for worker in workers]
    if how == "killed":
        os.kill(main, signal.SIGKILL)
    elif how == "stopped":
        os.killpg(main, signal.SIGTERM)
    expected = {"killed": -signal.SIGKILL, "stopped": -signal.SIGTERM, "leave": 7}[how]
    assert int(parents.stdout.readline()) == expected and len(workers) == 3
    assert not psutil.wait_procs(workers, timeout=30)[1]


@pytest.fixture
def no_room(monkeypatch):
    """Fail as if /dev/shm were full."""

    def full(*_, **__):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(multiprocessing.synchronize.SemLock, "__init__", full)


@pytest.mark.usefixtures("no_room")
def test_no_room_for_locks_is_found_at_the_start(data):
    words = "--num_workers 2: /dev/shm.* No space left .*--shm-size.*--num_workers 0"
    with pytest.raises(DataError, match=words):
        create_loader(data_path=data.folder, num_workers=2, **data.settings)
    with create_loader(data_path=data.folder, num_workers=0, **data.settings) as loader:
        assert len(list(loader)) == len(loader)


@pytest.mark.usefixtures("no_room")
def test_no_room_for_locks_is_an_error_of_a_map_too():
    with pytest.raises(safe_map.WorkersCannotStart, match=r"--workers 2: /dev/shm.*--shm-size"):
        list(safe_map.safe_map(abs, range(3), workers=2, chunk=1, crashed=None))


def test_no_memory_for_batches_is_one_line(monkeypatch):
    def none(*_):
        raise OSError(errno.ENOMEM, "Cannot allocate memory")

    monkeypatch.setattr(worker_batches.mmap, "mmap", none)
    with pytest.raises(DataError, match=r"5 batches of 0 MB .* fewer --num_workers"):
        next(batches(fill))


def test_too_many_processes_is_one_line():
    assert "use fewer" in processes.start_error_reason(BlockingIOError(errno.EAGAIN, "unavailable"))
