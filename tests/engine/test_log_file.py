"""log.txt of a resumed run, after a crash has damaged it."""

import json

import pytest

from fastimae.engine.log_file import LogFile
from fastimae.engine.sink import RunToReport


@pytest.mark.parametrize(
    "text",
    [b'{"epoch": 0}', b'{"epoch": 0}\n\xff\xfe', b'{"epoch": 0}\n\0\0\0', b'{"epoch": 0}\n{"epo'],
    ids=["no line end", "no text", "zeros", "cut short"],
)
def test_a_damaged_end_costs_no_line_and_no_run(tmp_path, text):
    path = tmp_path / "log.txt"
    path.write_bytes(text)
    run = RunToReport(
        folder=tmp_path, log_dir=tmp_path, id="", settings={}, epoch=1, point=1000, is_new=False
    )
    LogFile(run).epoch({"epoch": 1}, 2000)
    assert [json.loads(line)["epoch"] for line in path.read_text().splitlines()] == [0, 1]
