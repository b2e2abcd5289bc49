"""What other commands make of a run, whichever built-in objective it trained."""

import json

import pytest
from built_in import OBJECTIVES
from html_page import Page

pytest.importorskip("sklearn")
pytest.importorskip("timm")

from fastimae import cli

NOT_PARTS = {"train_loss", "train_lr"}
TASKS = {
    "knn": "--k 3",
    "linear": "--epochs 8 --batch_size 11 --lr 1",
    "finetune": "--epochs 4 --warmup_epochs 0 --batch_size 11 --lr 1e-3 --mixup 0 --cutmix 0",
}


CASES = [("knn", name) for name in OBJECTIVES]
# No decoder, and two heads; tasks read any encoder in the same way.
CASES += [("linear", "cmae"), ("finetune", "imae")]


def folder_of(name, stopped_runs):
    """Return the folder of the objective's run that nothing stopped."""
    return next(stopped_runs.folder.glob(f"{name}_?_whole"))


@pytest.mark.parametrize("name", OBJECTIVES)
def test_its_page_shows_the_losses_and_pictures(name, stopped_runs, tmp_path):
    folder = folder_of(name, stopped_runs)
    out = tmp_path / "report.html"
    assert cli.evaluate(["report", "--run", str(folder), "--output", str(out)]) == 0
    page = Page(out.read_text())
    assert OBJECTIVES[name].load().title in page.text
    assert (folder / "reconstruction.png").exists() and len(page.images) == 1
    last = json.loads((folder / "log.txt").read_text().splitlines()[-1])
    parts = {key for key in last if key.startswith("train_")} - NOT_PARTS
    charts = {values["aria-label"] for tag, values in page.tags if tag == "svg"}
    assert {"Loss"} | ({"Loss, its parts"} if parts else set()) <= charts
    for part in parts if len(parts) > 1 else ():  # a single line has no name
        assert part.removeprefix("train_").replace("_", " ") in page.text


@pytest.mark.parametrize(("task", "name"), CASES)
def test_its_checkpoint_is_evaluated(task, name, stopped_runs, tmp_path):
    """The encoder is read from it, whatever else it holds; it tells colours apart."""
    folder = folder_of(name, stopped_runs)
    command = f"{task} --checkpoint {folder / 'checkpoint-last.pth'} --device cpu --num_workers 0 "
    command += f"--data_path {stopped_runs.folder / 'data'} --output_dir {tmp_path} {TASKS[task]}"
    assert cli.evaluate(command.split()) == 0
    assert json.loads((tmp_path / "results.json").read_text())["numbers"]["acc1"] == 100
