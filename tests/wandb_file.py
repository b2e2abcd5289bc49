"""Reads the .wandb file of an offline run: records in the log format of LevelDB."""

import json
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from wandb.proto.wandb_internal_pb2 import Record

_FILE_HEADER, _BLOCK, _RECORD_HEADER = 7, 32768, 7


def records(path: Path) -> Iterator[Record]:
    """Yield the records, which may be split over blocks of the file."""
    data, at, parts = path.read_bytes(), _FILE_HEADER, b""
    while at < len(data):
        if _BLOCK - at % _BLOCK < _RECORD_HEADER:  # the rest of a block is padding
            at += _BLOCK - at % _BLOCK
            continue
        _, length, kind = struct.unpack("<IHB", data[at : at + _RECORD_HEADER])
        at += _RECORD_HEADER
        parts += data[at : at + length]
        at += length
        if kind in (1, 4):  # complete, or the last part
            yield Record.FromString(parts)
            parts = b""


def history(path: Path) -> list[dict[str, Any]]:
    """Return the logged values, a dict for each step."""
    rows = [found.history.item for found in records(path) if found.HasField("history")]
    return [{_name(item): json.loads(item.value_json) for item in row} for row in rows]


def run_of(path: Path) -> Any:
    """Return the record of the run: its id, project and config."""
    return next(found.run for found in records(path) if found.HasField("run"))


def config(path: Path) -> dict[str, Any]:
    """Return the run's settings."""
    return {item.key: json.loads(item.value_json) for item in run_of(path).config.update}


def _name(item: Any) -> str:
    return "/".join(item.nested_key) or item.key
