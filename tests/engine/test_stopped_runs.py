"""A run that was killed or stopped and resumed equals the uninterrupted run, bit for bit."""

import json
import signal

import pytest
import torch
from built_in import OBJECTIVES
from runs_to_stop import RUNS

from fastimae.engine.checkpoint import load_checkpoint

pytest.importorskip("timm")
TIMES = {"img_per_s", "mfu", "data_wait", "memory_gb"}


def leaves(content, name=""):
    """Yield (name, value) of everything in nested dicts and lists, except run ids and paths."""
    if isinstance(content, dict | list):
        pairs = content.items() if isinstance(content, dict) else enumerate(content)
        for key, value in pairs:
            yield from leaves(value, f"{name}/{key}")
    elif name not in ("/args/output_dir", "/args/run"):
        yield name, content


def same(a, b):
    return torch.equal(a, b) if torch.is_tensor(a) and torch.is_tensor(b) else a == b


@pytest.mark.parametrize(
    ("name", "end"), [(f"{task}_{size}", end) for task, size, ends in RUNS for end in ends]
)
def test_it_ends_with_the_same_bits_and_numbers(stopped_runs, name, end):
    ended, resumed = stopped_runs.report[f"{name}_{end}"]
    output = stopped_runs.output(f"{name}_{end}", 0)
    if end.startswith("kill"):  # others may notice the lost process before they are killed
        assert -signal.SIGKILL in ended and set(ended) <= {-signal.SIGKILL, 2}
    else:
        assert set(ended) == {0}
    assert set(resumed) == {0}, output
    whole, other = (stopped_runs.folder / f"{name}_{part}" for part in ("whole", end))
    files = {path.name for path in whole.glob("checkpoint-*.pth")}
    assert files == {path.name for path in other.glob("checkpoint-*.pth")}
    for file in files:
        a, b = (dict(leaves(load_checkpoint(folder / file))) for folder in (whole, other))
        assert a.keys() == b.keys()
        assert [key for key in a if not same(a[key], b[key])] == []
    lines = [
        [{k: v for k, v in line.items() if k not in TIMES} for line in stopped_runs.log(run)]
        for run in (f"{name}_whole", f"{name}_{end}")
    ]
    assert lines[0] == lines[1] and len(lines[0]) == 2
    if (whole / "results.json").exists():
        numbers = [json.loads((f / "results.json").read_text())["numbers"] for f in (whole, other)]
        assert numbers[0] == numbers[1]


def test_each_objective_and_task_is_stopped():
    assert {task for task, _, _ in RUNS} == {*OBJECTIVES, "linear", "finetune", "toy"}
