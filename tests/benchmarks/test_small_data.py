"""The benchmark of small data: all ways load the same, in turns, and have their memory told."""

import dataclasses
import itertools
import json

import numpy as np
import pytest
import torch

from benchmarks.gpu_day.kit import unpack
from benchmarks.pictures import made_up_beton
from benchmarks.small_data import __main__ as program
from benchmarks.small_data import turns
from benchmarks.small_data.tables import markdown
from benchmarks.small_data.turns import InBlocks, Turn, in_turns
from benchmarks.small_data.ways import WAYS, Job

CPU = torch.device("cpu")
COUNT, BATCH = 24, 8


@pytest.fixture(scope="module")
def job(tmp_path_factory):
    folder = tmp_path_factory.mktemp("small")
    beton = made_up_beton(folder, count=COUNT, sides=(32, 32))
    unpack(beton, images := folder / "unpacked")
    return Job(
        beton=beton, folder=images, side=32, batch_size=BATCH, num_workers=1, device=CPU
    )  # fmt: skip


def first_epoch(name, job):
    """Return images and samples of an epoch: uint8 [24, 32, 32, 3], int64 [24]."""
    with WAYS[name](job) as opened:
        batches = opened.batches
        if opened.resident is not None:
            opened.resident.begin(0, 0)
            batches = (opened.resident.batch() for _ in itertools.count())
        taken = list(itertools.islice(batches, COUNT // BATCH))
    images, index = ([getattr(one, name) for one in taken] for name in ("images", "index"))
    return torch.cat(images).numpy(), torch.cat(index).numpy()


def test_ways_load_the_same_images(job):
    """Ours are equal byte for byte; the DataLoader draws other windows of as many images."""
    images, index = first_epoch("--cache device", job)
    assert sorted(index) == list(range(COUNT)) and images.dtype == np.uint8
    engine, same = first_epoch("our engine", job)
    assert np.array_equal(same, index) and np.array_equal(engine, images)
    others, _ = first_epoch("DataLoader", job)
    assert others.shape == images.shape and others.dtype == np.uint8
    assert abs(others.mean() - images.mean()) < 8


def test_a_report_has_all_ways_with_their_memory(job, tmp_path, capsys):
    out = tmp_path / "small.json"
    flags = f"--smoke --device cpu --rounds 2 --seconds 0.01 --num_workers 1 --data {job.beton}"
    assert program.main([*flags.split(), "--folder", str(job.folder), "--out", str(out)]) == 0
    report = json.loads(out.read_text())
    rows = {row["way"]: row for row in report["small_data"]}
    assert report["complete"] and list(rows) == list(WAYS)
    assert rows["--cache device"]["kept_bytes"] == COUNT * 32 * 32 * 3
    for row in rows.values():
        for speed in ("crops_per_s", "img_per_s"):
            assert row[speed] == np.median(row[f"{speed}_rounds"]) > 0
            assert len(row[f"{speed}_rounds"]) == 2
        assert "host_bytes" in row and "gpu_bytes" not in row and 0 <= row["data_wait"] <= 1
    assert "made_up_pictures.beton; imae_vit_nano_patch8" in capsys.readouterr().out


def test_a_run_that_was_killed_between_loaders_and_steps_has_a_table():
    row = {"way": "our engine", "kept_bytes": 0, "host_bytes": 2e6, "crops_per_s": 1234.0}
    facts = {"data": "f", "case": "c", "model": "m", "batch_size": 8, "num_workers": 2}
    assert "| our engine |  |  |  | 1234 |  | 2 |  |  |" in markdown({**facts, "small_data": [row]})
    assert "nothing measured" in markdown({**facts, "small_data": []})


def test_turns_are_interleaved_and_count_images(monkeypatch):
    order = []

    def throughput(use, items, device, seconds, **_):
        order.append(items)
        return 2.0, 0.5, 10

    monkeypatch.setattr(turns, "throughput", throughput)
    monkeypatch.setattr(turns, "settle", lambda _: None)
    both = [Turn(items="a", use=None, images=64), Turn(items="b", use=None, images=640)]
    assert sum(1 for _ in in_turns(both, CPU, 3, 1.0)) == 3
    assert order == ["a", "b"] * 3
    assert both[0].speeds == [320.0] * 3 and both[1].speed == 3200 and both[0].waited == 0.25


class Counting:
    """A resident epoch that notes what it is told."""

    def __init__(self):
        self.told = []

    def begin(self, epoch, step):
        self.told.append(("begin", epoch, step))

    def advance(self, count):
        self.told.append(count)


def test_blocks_stay_within_an_epoch():
    resident = Counting()
    assert list(itertools.islice(InBlocks(resident, per_epoch=5, count=2), 5)) == [2] * 5
    assert resident.told == [
        ("begin", 0, 0), 2, 2, ("begin", 1, 0), 2, 2, ("begin", 2, 0),
    ]  # fmt: skip


def test_the_case_follows_the_flags():
    def case(*flags):
        return program.chosen_case(program.parser().parse_args(["--device", "cpu", *flags]))

    assert (case().model, case().objective, case().img_size) == ("mae_vit_tiny_patch4", "imae", 32)
    assert case("--objective", "mae").name == "mae_cifar10"
    sizes = [dataclasses.asdict(case("--batch_size", "7"))[f"batch_{on}"] for on in ("cpu", "cuda")]
    assert sizes == [7, 7] and case().batch_size(torch.device("cuda")) == 1024
