"""Signals of worker processes, so that they neither die before their parent nor outlive it.

Schedulers, `timeout`, `docker stop` and Ctrl-C send a signal to all processes of a run. The main
process decides what it means: it may want to finish a step and save, for which it needs its
workers.
"""

from __future__ import annotations

import contextlib
import errno
import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Iterator
from multiprocessing.connection import wait

_POLL_SECONDS = 1.0
_SHARED_MEMORY_ERRORS = {errno.ENOSPC, errno.ENOENT, errno.EACCES, errno.EROFS, errno.ENOSYS}


@contextlib.contextmanager
def signals_blocked() -> Iterator[None]:
    """Block SIGTERM, Ctrl-C and all handled signals in processes that are forked inside."""
    handled = {number for number in signal.valid_signals() if callable(signal.getsignal(number))}
    handled = handled - {signal.SIGCHLD} | {signal.SIGTERM, signal.SIGINT}
    before = signal.pthread_sigmask(signal.SIG_BLOCK, handled)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def obey_parent_only() -> None:
    """Make this worker process end with its parent, or on a SIGTERM from it; ignore Ctrl-C.

    Without that, a worker whose parent has died might wait for work forever.
    """
    has_sigtimedwait = hasattr(signal, "sigtimedwait")  # not on macOS: there any SIGTERM ends it
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    signal.pthread_sigmask(
        signal.SIG_BLOCK if has_sigtimedwait else signal.SIG_UNBLOCK, {signal.SIGTERM}
    )
    watch = threading.Thread(target=_exit_with_parent, args=(has_sigtimedwait,), daemon=True)
    watch.start()


def start_error_reason(error: OSError) -> str:
    """Describe why worker processes cannot start, and what to change."""
    if error.errno in _SHARED_MEMORY_ERRORS:
        return (
            f"/dev/shm, where worker processes keep their locks: {error.strerror}. Make room there "
            "(docker run --shm-size=8g, or --ipc=host)"
        )
    return f"worker processes cannot start ({error.strerror or error}): use fewer"


def _exit_with_parent(has_sigtimedwait: bool) -> None:
    parent = multiprocessing.parent_process()
    # A sentinel does not work for forked workers: those forked later hold its other end open.
    forked = os.getppid() == parent.pid
    while os.getppid() == parent.pid if forked else not wait([parent.sentinel], 0):
        if _sigterm_sender(has_sigtimedwait) == parent.pid:
            break
    os._exit(1)


def _sigterm_sender(has_sigtimedwait: bool) -> int | None:
    """Wait a moment for a SIGTERM; return the process that sent it, None if there was none."""
    if not has_sigtimedwait:
        time.sleep(_POLL_SECONDS)
        return None
    signalled = signal.sigtimedwait({signal.SIGTERM}, _POLL_SECONDS)
    return signalled.si_pid if signalled is not None else None
