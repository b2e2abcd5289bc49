"""A pseudo-terminal as stderr, and the lines that a person would see in it."""

import contextlib
import fcntl
import os
import re
import struct
import sys
import termios
import threading


@contextlib.contextmanager
def terminal(monkeypatch, columns):
    """Make stderr a terminal of that width during the block; yield the list that its output fills
    when the block ends."""
    ours, theirs = os.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
    pieces, output = [], []
    reader = threading.Thread(target=_read_all, args=(ours, pieces))
    reader.start()
    with monkeypatch.context() as patch, os.fdopen(theirs, "w", buffering=1) as stream:
        patch.setattr(sys, "stderr", stream)
        patch.setenv("TERM", "xterm")
        yield output
    reader.join()
    os.close(ours)
    output += [b"".join(pieces).decode()]


def _read_all(descriptor, pieces):
    with contextlib.suppress(OSError):  # the other end is closed
        while piece := os.read(descriptor, 4096):
            pieces.append(piece)


def seen(output, columns):
    """Return the lines on the screen after the output, without wrapping; and each state that the
    last line was in before it was overwritten."""
    assert not re.search(r"\x1b", output), "an escape sequence"
    lines, states, at = [""], [], 0
    for char in output:
        if char == "\r":
            states.append(lines[-1])
            at = 0
        elif char == "\n":
            lines.append("")
            at = 0
        else:
            lines[-1] = lines[-1][:at].ljust(at) + char + lines[-1][at + 1 :]
            at += 1
    return [line.rstrip() for line in lines], [state.rstrip() for state in states]
