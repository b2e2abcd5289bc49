"""A report shows the numbers of its run's weights, says of which epoch, and no other's."""

import json
import os
import shutil

import pytest
import torch
from tiny import save_run, tiny_model

from fastimae.engine.checkpoint import load_checkpoint, save_checkpoint
from fastimae.evaluate.origin import origin_of, weights_digest
from fastimae.evaluate.pages.comparison import tables_of
from fastimae.evaluate.pages.runs import read_run
from fastimae.evaluate.tasks.report import page

ACC1 = 43.21


def save(folder, seed, *, epoch=0, step=9, run="a", name="checkpoint-last.pth"):
    """Save a checkpoint whose weights follow from the seed."""
    torch.manual_seed(seed)
    path = save_run(folder, tiny_model(), run=run)
    content = load_checkpoint(path) | {"epoch": epoch, "step": step}
    path.unlink()
    save_checkpoint(folder / name, content)
    return folder / name


def evaluate(path, folder=None, acc1=ACC1, **more):
    """results.json as a probe of the checkpoint leaves it."""
    model = tiny_model()
    model.load_state_dict(load_checkpoint(path)["model"])
    write(folder or path.parent / "eval-knn", {"acc1": acc1}, checkpoint=str(path),
          **(origin_of(path, model) | more))  # fmt: skip


def write(folder, numbers, **more):
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "results.json").write_text(json.dumps({"task": "knn", "numbers": numbers, **more}))


def shown(folder):
    """Whether the page and the table have the number; what they say of it, and the epoch."""
    run = read_run(folder)
    text, tables = page(run), tables_of([run, run])
    in_both = (f"<b>{ACC1}</b>" in text, {"": "knn acc1", folder.name: ACC1} in tables["numbers"])
    assert in_both in ((True, True), (False, False))
    (item,) = (*run.evaluations, *run.left_out)
    if item.match.note:
        assert item.match.note in text
        assert item.match.note in tables["notes"][0][folder.name]
    else:
        assert not tables["notes"] and "Left out" not in text
    return in_both[0], item.match.note, item.match.epoch


def test_the_newest_weights_need_no_word(tmp_path):
    evaluate(save(tmp_path, 1))
    assert shown(tmp_path) == (True, "", "")
    shutil.copytree(tmp_path, tmp_path.parent / "copied")
    assert shown(tmp_path.parent / "copied") == (True, "", "")


def test_an_earlier_epoch_is_named(tmp_path):
    save(tmp_path, 1, epoch=3, name="checkpoint-3.pth")
    evaluate(save(tmp_path, 1, epoch=3))
    save(tmp_path, 2, epoch=5)
    assert shown(tmp_path) == (True, "of checkpoint-3.pth; the run is at epoch 5", "epoch 3")
    assert "top-1 (%), epoch 3" in page(read_run(tmp_path))
    (tmp_path / "checkpoint-3.pth").unlink()
    told = "of epoch 3, whose checkpoint is gone; the run is at epoch 5"
    assert shown(tmp_path) == (True, told, "epoch 3")


@pytest.mark.parametrize(
    ("now", "why"),
    [
        ({"run": "b"}, "another run"),
        ({"run": "b", "epoch": 7}, "another run"),
        ({"run": None}, "no checkpoint here"),
        ({"run": "a"}, "no checkpoint here"),  # the same point of the run, reached another way
    ],
    ids=["another", "another, later", "of an earlier version", "a fork"],
)
def test_other_weights_are_left_out_with_the_reason(tmp_path, caplog, now, why):
    evaluate(save(tmp_path, 1))
    save(tmp_path, 2, **now)
    visible, note, _ = shown(tmp_path)
    assert not visible and why in note
    assert "eval-knn is left out" in caplog.text


def test_an_evaluation_of_an_earlier_version_is_marked(tmp_path):
    save(tmp_path, 1)
    write(tmp_path / "eval-knn", {"acc1": ACC1})
    visible, note, _ = shown(tmp_path)
    assert visible and note.startswith("unknown")


def test_fresh_weights_are_the_baseline_of_any_run(tmp_path):
    evaluate(save(tmp_path, 1), weights="of its own", settings={"random_init": True})
    visible, note, _ = shown(tmp_path)
    assert visible and "fresh weights" in note


def test_without_checkpoints_nothing_can_be_compared(tmp_path):
    path = save(tmp_path, 1)
    evaluate(path)
    for damage in (lambda: path.write_bytes(b"damaged"), path.unlink):
        damage()
        visible, note, _ = shown(tmp_path)
        assert visible and note == "there is no checkpoint to compare it with"


def test_each_run_of_a_study_has_its_own(tmp_path):
    for name, seed in (("r0", 1), ("r1", 2)):
        evaluate(save(tmp_path / name, seed, run=name), acc1=seed)
    evaluate(tmp_path / "r0" / "checkpoint-last.pth", tmp_path / "r1" / "eval-astray")
    write(tmp_path / "r1" / "eval-astray" / "eval", {"acc1": ACC1})
    write(tmp_path, {"table": []})
    run = read_run(tmp_path)
    assert [item.name for item in run.evaluations] == [
        "knn",
        "knn (r0)",
        "knn (r1)",
    ]
    assert [item.numbers.get("acc1") for item in run.evaluations] == [None, 1, 2]
    assert [item.folder.name for item in run.left_out] == ["eval-astray", "eval"]


def test_pictures_are_those_that_the_results_name(tmp_path):
    path = save(tmp_path, 1)
    for name in ("ours.png", "of an earlier call.png"):
        (tmp_path / "eval-knn").mkdir(exist_ok=True)
        (tmp_path / "eval-knn" / name).write_bytes(b"")
    evaluate(path, pictures=["ours.png", "../../x.png"])
    (item,) = read_run(tmp_path).evaluations
    assert [picture.name for picture in item.pictures] == ["ours.png"]


def test_the_digest_is_of_the_encoders_weights_in_any_file(tmp_path):
    path = save(tmp_path, 1)
    weights = load_checkpoint(path)["model"]
    digest = weights_digest(weights)
    assert digest == weights_digest(dict(reversed(weights.items())))
    assert digest == weights_digest({**weights, "decoder_pred.bias": torch.ones(1)})
    seen = {digest}
    for name, value in weights.items():
        changed = value.clone()
        changed.view(-1)[-1] += 1e-3
        found = weights_digest({**weights, name: changed})
        assert (found in seen) == name.startswith(("decoder_", "mask_token"))
        seen.add(found)
    model = tiny_model()
    model.load_state_dict(weights)
    assert origin_of(path, model) == {"weights": digest, "run": "a", "epoch": 0, "step": 9}


def test_a_file_that_was_written_anew_meanwhile_says_nothing_of_the_epoch(tmp_path):
    model = tiny_model()
    model.load_state_dict(load_checkpoint(save(tmp_path, 1))["model"])
    path = save(tmp_path, 2, epoch=1)
    digest = weights_digest(model.state_dict())
    assert origin_of(path, model) == {"weights": digest, "run": None, "epoch": None, "step": None}


def test_results_beside_the_checkpoints_are_judged_too(tmp_path):
    """As of a probe whose --output_dir is the run's."""
    other = save(tmp_path / "other", 2, run="b")
    own = save(tmp_path / "run", 1)
    evaluate(own, own.parent)
    assert shown(own.parent)[:2] == (True, "")
    evaluate(other, own.parent)
    assert shown(own.parent)[0] is False
    content = load_checkpoint(own)
    begun = json.loads((own.parent / "results.json").read_text())["weights"]
    save_checkpoint(own, content | {"args": content["args"] | {"weights": begun}})  # a classifier
    assert shown(own.parent) == (True, "", "")


def test_settings_and_weights_are_of_the_same_checkpoint(tmp_path):
    older = save(tmp_path, 2, run="older", name="checkpoint-0.pth")
    save(tmp_path, 1, run="last")
    os.utime(older, (2e9, 2e9))  # as a copy may have it
    evaluate(tmp_path / "checkpoint-last.pth")
    assert read_run(tmp_path).settings["run"] == "last"
    assert shown(tmp_path) == (True, "", "")
