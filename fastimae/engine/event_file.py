"""A file of TensorBoard's events that survives a full disk, unlike torch's SummaryWriter."""

from __future__ import annotations

import io
import itertools
import os
import socket
import time
from pathlib import Path
from typing import Any

from tensorboard.compat.proto.event_pb2 import Event, SessionLog
from tensorboard.compat.proto.summary_pb2 import Summary
from tensorboard.summary.writer.record_writer import RecordWriter

from fastimae.best_effort import GrowingFile

_numbers = itertools.count()
_FLUSH_SECONDS = 10
"""Longest time that events are kept in memory while others follow."""
_VERSION = "brain.Event:2"


class EventFile:
    """Appends summaries to a new file. What does not fit is written once there is room.

    purge_from: TensorBoard drops the points of earlier files from this step on. suffix: ends the
    name of the file.
    """

    def __init__(self, folder: Path, *, suffix: str = "", purge_from: int | None = None) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        unique = f"{time.time():010.0f}.{socket.gethostname()}.{os.getpid()}.{next(_numbers)}"
        self.file = GrowingFile(folder / f"events.out.tfevents.{unique}{suffix}")
        self._buffer, self._due = io.BytesIO(), 0.0
        self._records = RecordWriter(self._buffer)
        self._add(file_version=_VERSION)
        if purge_from is not None:
            self._add(step=purge_from, session_log=SessionLog(status=SessionLog.START))

    def add(self, summary: Summary, step: int | None = None) -> None:
        """Add a summary, as the functions of `torch.utils.tensorboard.summary` make them."""
        self._add(summary=summary, **({} if step is None else {"step": step}))
        if time.monotonic() >= self._due:
            self.flush()

    def flush(self) -> None:
        """Write everything added so far, as far as there is room."""
        self.file.append(self._buffer.getvalue())
        self._buffer.seek(0)
        self._buffer.truncate()
        self._due = time.monotonic() + _FLUSH_SECONDS

    def _add(self, **content: Any) -> None:
        event = Event(wall_time=time.time(), **content)
        self._records.write(event.SerializeToString())
