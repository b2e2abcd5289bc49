"""What keeps worker processes from dying before their parent, and from outliving it.

Schedulers, `timeout`, `docker stop` and Ctrl-C send a signal to all processes of a run. What it
means is for the main process to decide: it may want to finish a step and save, for which it needs
its workers.
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

_LOOK_SECONDS = 1.0
_OF_SHARED_MEMORY = {errno.ENOSPC, errno.ENOENT, errno.EACCES, errno.EROFS, errno.ENOSYS}


@contextlib.contextmanager
def signals_held_back() -> Iterator[None]:
    """Processes forked inside never get the signals that this process handles, nor SIGTERM."""
    handled = {number for number in signal.valid_signals() if callable(signal.getsignal(number))}
    handled = handled - {signal.SIGCHLD} | {signal.SIGTERM, signal.SIGINT}
    before = signal.pthread_sigmask(signal.SIG_BLOCK, handled)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def heed_the_parent_alone() -> None:
    """Call in a worker process: SIGTERM ends it if its parent sends it, and so does its parent's
    end, at which it might wait for work for ever. Ctrl-C does nothing."""
    tells_senders = hasattr(signal, "sigtimedwait")  # not on macOS: there SIGTERM ends it
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    signal.pthread_sigmask(
        signal.SIG_BLOCK if tells_senders else signal.SIG_UNBLOCK, {signal.SIGTERM}
    )
    watch = threading.Thread(target=_watch, args=(tells_senders,), daemon=True)
    watch.start()


def why_not_started(error: OSError) -> str:
    """What to say where worker processes cannot start, and how to go on."""
    if error.errno in _OF_SHARED_MEMORY:
        return (
            f"/dev/shm, where worker processes keep their locks: {error.strerror}. Make room there "
            "(docker run --shm-size=8g, or --ipc=host)"
        )
    return f"worker processes cannot start ({error.strerror or error}): use fewer"


def _watch(tells_senders: bool) -> None:
    parent = multiprocessing.parent_process()
    # A forked worker's sentinel is held open by those forked after it.
    forked = os.getppid() == parent.pid
    while os.getppid() == parent.pid if forked else not wait([parent.sentinel], 0):
        if _told_by(tells_senders) == parent.pid:
            break
    os._exit(1)


def _told_by(tells_senders: bool) -> int | None:
    """The process that sent SIGTERM, if one does within a moment."""
    if not tells_senders:
        time.sleep(_LOOK_SECONDS)
        return None
    signalled = signal.sigtimedwait({signal.SIGTERM}, _LOOK_SECONDS)
    return signalled.si_pid if signalled is not None else None
