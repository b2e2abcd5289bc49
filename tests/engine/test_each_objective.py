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


@pytest.fixture(params=OBJECTIVES)
def run(request, stopped_runs):
    """Return an objective's name, and the folder of its run in one process."""
    return request.param, next(stopped_runs.folder.glob(f"{request.param}_?_whole"))


def test_its_page_shows_the_losses_and_pictures(run, tmp_path):
    name, folder = run
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


@pytest.mark.parametrize("task", TASKS)
def test_its_checkpoint_is_evaluated(run, task, stopped_runs, tmp_path):
    """The encoder is read from it, whatever else it holds; it tells colours apart."""
    _, folder = run
    command = f"{task} --checkpoint {folder / 'checkpoint-last.pth'} --device cpu --num_workers 0 "
    command += f"--data_path {stopped_runs.folder / 'data'} --output_dir {tmp_path} {TASKS[task]}"
    assert cli.evaluate(command.split()) == 0
    assert json.loads((tmp_path / "results.json").read_text())["numbers"]["acc1"] == 100
