"""Archiving an earlier run: all of its files, and no others."""

import json
import threading

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from fastimae import cli
from fastimae.engine.checkpoint import load_checkpoint
from fastimae.engine.distributed import World
from fastimae.engine.output_folders import claim_folders
from fastimae.engine.previous_runs import archive_other_runs, archive_previous_run, run_suffix
from fastimae.folders import FolderError
from fastimae.locks import InUse, folder_to_write

OF_THE_RUN = (
    "checkpoint-0.pth", "checkpoint-last.pth", "checkpoint-best.pth", "shards-3/rank-0-of-2.pth",
    "log.txt", "events.out.tfevents.1.host.2.0", "reconstruction.png", "nonfinite-rank1.json",
    "profile-rank0.json.gz", "profile-rank0.txt", "results.json", "report.html", "run.yaml",
    "debug.log", "wandb/run-1/run-1.wandb",
    "eval-knn/results.json", "eval-attention/attention-0.png", "eval-finetune/checkpoint-last.pth",
    "eval-features/1-2.safetensors", "eval/results.json",
)  # fmt: skip
OF_OTHERS = ("holiday.png", "download.partial", "notes.txt", "eval/code.py", "command.json")


def fill(folder, names, text):
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)


def files(folder):
    return {
        str(path.relative_to(folder)): path.read_text()
        for path in folder.rglob("*")
        if path.is_file()
    }


def test_all_that_a_run_left_is_moved_and_nothing_else(tmp_path, caplog):
    fill(tmp_path, OF_OTHERS, "other")
    others = dict.fromkeys(OF_OTHERS, "other")
    assert archive_previous_run(tmp_path) is None and files(tmp_path) == others
    expected = dict(others)
    for number in (1, 2):
        fill(tmp_path, OF_THE_RUN, f"run {number}")
        fill(tmp_path, ["checkpoint-last.pth.partial", "log.txt.partial"], "cut short")
        assert archive_previous_run(tmp_path) == tmp_path / f"previous-{number}"
        expected |= {f"previous-{number}/{name}": f"run {number}" for name in OF_THE_RUN}
        assert files(tmp_path) == expected
    assert caplog.text.count("held an earlier run") == 2


def test_pictures_of_results_go_with_them(tmp_path):
    """A later run may draw fewer, and those of this one would be taken for its own."""
    fill(tmp_path, ["iou.png", "eval/scenes.png", "mine.png", "reconstruction.png"], "drawn")
    listed = {"": ["iou.png", "reconstruction.png", "gone.png"], "eval": ["scenes.png"]}
    for folder, names in listed.items():
        (tmp_path / folder / "results.json").write_text(json.dumps({"pictures": names}))
    archive_previous_run(tmp_path)
    assert {name for name in files(tmp_path) if name.endswith(".png")} == {
        "mine.png", *(f"previous-1/{name}"
                      for name in ("iou.png", "eval/scenes.png", "reconstruction.png")),
    }  # fmt: skip


@pytest.mark.parametrize("name", OF_THE_RUN)
def test_each_of_them_is_enough(tmp_path, name):
    """A run that was killed before its first checkpoint has left a log, or TensorBoard's events."""
    fill(tmp_path, [name], "left")
    found = archive_previous_run(tmp_path)
    if name.startswith(("debug.log", "wandb/")):  # from a command line with a mistake
        assert found is None
    else:
        assert files(tmp_path) == {f"previous-1/{name}": "left"}


def test_numbers_of_folders_are_not_used_again(tmp_path):
    (tmp_path / "previous-4").mkdir()
    fill(tmp_path, ["log.txt"], "")
    assert archive_previous_run(tmp_path).name == "previous-5"


def test_tensorboards_files_elsewhere_are_kept_apart(tmp_path):
    run, board = tmp_path / "run", tmp_path / "board"
    event = "events.out.tfevents.1.host.2.0"
    fill(board, [event, "another.txt"], "old")
    run.mkdir()
    assert archive_previous_run(run, board) is None
    assert files(board) == {f"previous-1/{event}": "old", "another.txt": "old"}
    fill(run, [event], "same folder")
    archive_previous_run(run, run)
    assert files(run) == {f"previous-1/{event}": "same folder"}


def test_a_resumed_run_goes_on_without_the_curves_of_another(tmp_path):
    """Its own event files stay, and so do those without a suffix, from earlier versions."""
    run, board = tmp_path / "run", tmp_path / "board"
    event = "events.out.tfevents.1.host.2.0"
    own, other = event + run_suffix("0123456789ab"), event + run_suffix("ba9876543210")
    fill(run, ["log.txt", own], "own")
    fill(board, [event, own, other, "another.txt"], "x")
    for _ in range(2):
        archive_other_runs(run, board, run / "checkpoint-last.pth", run="0123456789ab")
    kept = {event: "x", own: "x", "another.txt": "x", f"previous-1/{other}": "x"}
    assert files(board) == kept and files(run) == {"log.txt": "own", own: "own"}


def test_two_runs_that_take_turns_at_one_log_dir_have_curves_of_their_own(tmp_path):
    board = tmp_path / "board"
    command = "--synthetic --synthetic_samples 8 --num_workers 0 --device cpu --precision fp32 "
    command += "--model mae_vit_nano_patch16 --input_size 32 --batch_size 4 --warmup_epochs 0 "
    command += f"--vis_freq 0 --log_dir {board}"
    for name, epochs in (("a", 1), ("b", 2), ("a", 3)):
        flags = f"{command} --epochs {epochs} --output_dir {tmp_path / name} --resume auto"
        assert cli.train(flags.split()) == 0
    runs = {
        name: load_checkpoint(tmp_path / name / "checkpoint-last.pth")["args"]["run"]
        for name in "ab"
    }
    names = [path.name for path in board.glob("events*")]
    assert names and all(name.endswith(run_suffix(runs["a"])) for name in names)
    steps = [event.step for event in EventAccumulator(str(board)).Reload().Scalars("lr")]
    assert steps[-1] == 3000 and steps == sorted(set(steps))
    assert any(board.glob(f"previous-*/*{run_suffix(runs['b'])}"))


def test_an_evaluation_under_way_keeps_the_run_in_its_place(tmp_path):
    fill(tmp_path, OF_THE_RUN, "run")
    before = files(tmp_path)
    in_use = pytest.raises(InUse, match="eval-finetune is in use")
    with folder_to_write(tmp_path / "eval-finetune"), in_use:
        archive_previous_run(tmp_path)
    assert files(tmp_path) == before
    assert archive_previous_run(tmp_path) is not None


class Threads(World):
    """A world whose ranks are threads of one process."""

    barrier, flags = threading.Barrier(2), [False, False]

    def any(self, flag):
        self.flags[self.rank] = flag
        self.barrier.wait(20)
        found = any(self.flags)
        self.barrier.wait(20)
        return found


def claim_by_two(output_dir, log_dir=None):
    """Return what each of two ranks gets for claiming the folders."""
    got = [None, None]

    def one(rank):
        try:
            with claim_folders(output_dir, log_dir, Threads(rank, 2, None)):
                got[rank] = "in"
        except FolderError as error:
            got[rank] = error

    ranks = [threading.Thread(target=one, args=(rank,)) for rank in range(2)]
    for rank in ranks:
        rank.start()
    for rank in ranks:
        rank.join(40)
    return got


def test_ranks_hold_a_folder_together_or_are_refused_together(tmp_path):
    run, board = tmp_path / "run", tmp_path / "board"
    assert claim_by_two(run, board) == ["in", "in"]
    assert claim_by_two(run, run) == ["in", "in"]
    for held, flag in ((run, "--output_dir"), (board, "--log_dir")):
        with folder_to_write(held):
            main, other = claim_by_two(run, board)
        assert isinstance(main, InUse) and flag in str(main)
        assert "another process" in str(other) and str(run) in str(other)
    assert claim_by_two(run, board) == ["in", "in"]
    # An empty folder may remain if the other rank made it first.
    assert not board.exists() and not (run.exists() and any(run.iterdir()))


def test_the_folder_of_another_run_is_none_for_tensorboard(tmp_path):
    run, board = tmp_path / "run", tmp_path / "board"
    board.mkdir()
    (board / "events.out.tfevents.1").touch()
    assert claim_by_two(run, board) == ["in", "in"]
    (board / "checkpoint-last.pth").touch()
    main, other = claim_by_two(run, board)
    assert f"--log_dir {board} is the --output_dir of another run" in str(main)
    assert "another process" in str(other)
    assert claim_by_two(board, board) == ["in", "in"]
