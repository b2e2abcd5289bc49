"""Sharded checkpoints: unsharded for readers, never half written, clear errors if damaged."""

import shutil

import pytest
import torch
from tiny import NANO

from fastimae.engine.checkpoint import (
    CheckpointError,
    load_checkpoint,
    save_checkpoint,
)
from fastimae.engine.previous_runs import archive_previous_run
from fastimae.engine.sharded import join, split
from fastimae.models import create_model


@pytest.fixture
def stopped(ranks, tmp_path):
    """Return a copy of a run that two processes stopped: an index and two shards."""
    shutil.copytree(ranks.folder / "imae_stopped", tmp_path / "run")
    return tmp_path / "run"


def shards(folder):
    return sorted(str(path.relative_to(folder)) for path in folder.glob("shards-*/*"))


class Rows(torch.Tensor):
    """A fake DTensor: a process's rows of a tensor."""

    def to_local(self):
        return self.as_subclass(torch.Tensor)[self.first : self.first + 2]


def rows_of(tensor, first):
    rows = tensor.as_subclass(Rows)
    rows.first = first
    return rows


def test_rows_of_three_processes_make_the_tensor_again(tmp_path):
    """The last one has fewer rows, or none."""
    for height in (5, 4):
        whole = {"w": torch.randn(height, 3), "b": torch.randn(height)}
        plain = {"epoch": 3, "names": ["a"], "none": None, "step": torch.tensor(7)}
        for rank in range(3):
            sharded = {name: rows_of(tensor, 2 * rank) for name, tensor in whole.items()}
            index, rows = split({"model": sharded, "optimizer": {"state": {0: sharded}}, **plain})
            assert {len(part) for part in rows.values()} == {max(0, min(2, height - 2 * rank))}
            torch.save(rows, tmp_path / f"{rank}.pth")
        torch.save({**index, "shards": [f"{rank}.pth" for rank in range(3)]}, tmp_path / "index")
        got = load_checkpoint(tmp_path / "index")
        assert got.keys() == {"model", "optimizer", *plain}
        for name, tensor in whole.items():
            assert torch.equal(got["model"][name], tensor)
            assert torch.equal(got["optimizer"]["state"][0][name], tensor)
        assert {name: got[name] for name in plain} == plain


def test_everyone_reads_an_index_as_a_checkpoint(stopped):
    assert len(shards(stopped)) == 2
    largest = max(path.stat().st_size for path in stopped.glob("shards-*/*"))
    content = load_checkpoint(stopped / "checkpoint-last.pth")
    model = create_model("mae_vit_nano_patch16", img_size=32, heads=2, **NANO)
    model.load_state_dict(content["model"])
    states = content["optimizer"]["state"].values()
    whole = sum(v.nbytes for part in (content["model"], *states) for v in part.values())
    assert largest < 0.6 * whole  # each process has written its half


def test_kept_checkpoints_are_one_plain_file(ranks):
    folder = ranks.folder / "imae_3"  # finished by three processes
    kept = torch.load(folder / "checkpoint-1.pth", weights_only=True)
    last = load_checkpoint(folder / "checkpoint-last.pth")
    assert kept.keys() == last.keys()
    for name, value in last["model"].items():
        assert torch.equal(kept["model"][name], value)


def test_old_shards_are_removed_once_the_index_names_new_ones(ranks):
    for name, size in (("imae_stopped", 2), ("imae_3", 3)):
        files = torch.load(ranks.folder / name / "checkpoint-last.pth", weights_only=True)["shards"]
        assert shards(ranks.folder / name) == sorted(files) and len(files) == size
    assert shards(ranks.folder / "on_2") == []  # saved by one process, in one file


@pytest.mark.parametrize("damage", ["missing", "cut short", "of another model"])
def test_a_bad_shard_is_named_in_one_line(stopped, damage):
    shard = stopped / shards(stopped)[1]
    if damage == "missing":
        shard.unlink()
    elif damage == "cut short":
        shard.write_bytes(shard.read_bytes()[:9999])
    else:
        torch.save({"/model/cls_token": torch.zeros(1, 1, 128)}, shard)
    with pytest.raises(CheckpointError, match=r"shards-\d+/rank-1-of-2\.pth") as error:
        load_checkpoint(stopped / "checkpoint-last.pth")
    assert "\n" not in str(error.value)


def test_rows_of_another_number_of_processes_do_not_fit(tmp_path):
    index, rows = split({"w": rows_of(torch.zeros(5, 2), 0)})
    torch.save(rows, tmp_path / "0.pth")
    with pytest.raises(CheckpointError, match=r"0\.pth is of another checkpoint"):
        join({**index, "shards": ["0.pth"]}, tmp_path)


def test_where_one_process_cannot_save_all_stop_and_the_old_checkpoint_stays(ranks):
    assert "another process could not write" in ranks.inside(0)["save"]
    assert ranks.inside(1)["save"] == "No space left"
    content = load_checkpoint(ranks.folder / "saved" / "checkpoint-last.pth")
    assert content["epoch"] == 1 and content["model"]["cls_token"].shape == (1, 1, 32)


def test_shards_move_aside_with_their_index(stopped):
    before = load_checkpoint(stopped / "checkpoint-last.pth")["model"]
    after = load_checkpoint(archive_previous_run(stopped) / "checkpoint-last.pth")["model"]
    assert all(torch.equal(after[name], value) for name, value in before.items())
    assert shards(stopped) == []


def test_one_file_in_the_place_of_an_index_frees_the_shards(stopped):
    save_checkpoint(stopped / "checkpoint-9.pth", {"epoch": 9})
    assert len(shards(stopped)) == 2
    save_checkpoint(stopped / "checkpoint-last.pth", {"epoch": 9})
    assert shards(stopped) == [] and load_checkpoint(stopped / "checkpoint-last.pth")["epoch"] == 9
