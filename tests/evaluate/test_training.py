"""Training with labels of any task, on a toy one: batches, the best checkpoint, and resuming.

tests/engine/test_stopped_runs.py kills and resumes it, alone and as two processes.
"""

import dataclasses
import json
import logging
import math

import numpy as np
import pytest
import torch
from toy_task import (
    ALONE,
    BROKEN,
    SAMPLES,
    SIDE,
    ToyModel,
    make_loader,
    make_sample,
    measure,
    toy_options,
    train,
)

from fastimae.engine.build_step import wants_graph
from fastimae.engine.checkpoint import load_checkpoint
from fastimae.engine.checkpoint_file import CLASSES, WEIGHTS, CheckpointError
from fastimae.engine.distributed import World
from fastimae.evaluate.training.batches import LabelledBatch
from fastimae.evaluate.training.sample_loader import SampleLoader, stacked
from fastimae.loaders.errors import DataError
from fastimae.loaders.nested import tensors_in
from fastimae.loaders.order.philox import KeyStream, derive_keys
from fastimae.settings import ConfigError

CPU = torch.device("cpu")


def loader(tmp_path, world=ALONE, **changes):
    return make_loader(toy_options(tmp_path, **changes), world)


def rows(batches):
    """Return [inputs, map, points, key] of each sample by its position in the order."""
    return [
        [batch.inputs[row], *batch.targets[row].values(), batch.key[row]]
        for batch in batches for row in range(len(batch))
    ]  # fmt: skip


def assert_same(one, other):
    for a, b in zip(one, other, strict=True):
        assert all(torch.equal(x, y) for x, y in zip(a, b, strict=True))


def test_workers_make_the_same_batches_and_leave_generators_alone(tmp_path):
    state, numpys = torch.get_rng_state(), np.random.get_state()[1].tolist()  # noqa: NPY002
    for epoch in (0, 1):
        shown = []
        for workers in (0, 2):
            batches = loader(tmp_path, num_workers=workers)
            batches.set_epoch(epoch)
            shown.append(rows(batches))
            assert batches.report() == {"bad_samples": 1}
        assert_same(*shown)
        assert len(shown[0]) == SAMPLES // 4 * 4
    assert torch.equal(torch.get_rng_state(), state)
    assert np.random.get_state()[1].tolist() == numpys  # noqa: NPY002


def test_two_ranks_have_the_batches_of_one(tmp_path):
    whole = list(loader(tmp_path, batch_size=8))
    parts = [loader(tmp_path, World(rank, 2, CPU), batch_size=4) for rank in (0, 1)]
    for one, *halves in zip(whole, *parts, strict=True):
        assert_same(rows([one]), rows(halves))


def test_keys_are_a_function_of_seed_epoch_and_sample(tmp_path):
    batches = loader(tmp_path, seed=3)
    batches.set_epoch(2)
    for batch in batches:
        kept = batch.index != BROKEN + 1  # there twice, once in the broken one's place
        expected = derive_keys(3, batch.index.numpy(), 2, KeyStream.SAMPLE)
        assert torch.equal(batch.key[kept], torch.from_numpy(expected)[kept])


def test_a_broken_image_is_replaced_by_the_next_named_and_counted(tmp_path, caplog):
    batches = loader(tmp_path, batch_size=17)
    index = torch.cat([batch.index for batch in batches]).sort().values.tolist()
    assert index == sorted([*range(BROKEN), *range(BROKEN + 1, SAMPLES), BROKEN + 1])
    list(batches)
    lines = [r.message for r in caplog.records if r.levelno == logging.WARNING]
    assert lines == ["toys: image 5 is replaced by the next: made to be broken"]
    resumed = loader(tmp_path, batch_size=17)
    resumed.load_state_dict(batches.state_dict())
    assert resumed.report() == {"bad_samples": 1}

    def broken(epoch, index):
        return make_sample(epoch, BROKEN)

    options = toy_options(tmp_path)
    with pytest.raises(DataError, match="toys: 10 images from"):
        list(make_loader(options, ALONE, make=broken))


def test_too_few_images_for_a_batch_are_an_error_that_names_the_flag(tmp_path):
    with pytest.raises(ConfigError, match="--batch_size 4 on 1 ranks does not fit 3 images"):
        make_loader(toy_options(tmp_path), ALONE, samples=3)


def test_a_sample_of_another_size_is_an_error(tmp_path):
    def narrow(epoch, index):
        return np.zeros((1, 1, SIDE), np.float32), 0

    with pytest.raises(ValueError, match=r"sample \d+ is \[1, 1, 8\], and the loader's \[1, 8, 8"):
        next(iter(make_loader(toy_options(tmp_path), ALONE, make=narrow)))


@pytest.mark.parametrize("workers", [0, 2])
def test_targets_are_collated_and_mixed_where_they_are_made(workers):
    frozen = np.arange(4.0)
    frozen.flags.writeable = False

    def make(epoch, index):
        return torch.full((1, 2, 2), float(index)), frozen[::-1] + index

    def mix(step, inputs, targets):
        inputs += step.number
        return {"values": torch.from_numpy(targets), "frozen": frozen, "step": step.number}

    batches = SampleLoader(
        make, 6, shape=(1, 2, 2), batch_size=3, num_workers=workers, pin_mem=False, world=ALONE,
        seed=0, data=0, source="", collate=stacked, mix=mix,
    )  # fmt: skip
    for number, batch in enumerate(batches):
        index = batch.index.double()
        assert torch.equal(batch.inputs[:, 0, 0, 0].double(), index + number)
        expected = torch.tensor([3.0, 2, 1, 0], dtype=torch.double) + index[:, None]
        assert torch.equal(batch.targets["values"], expected) and batch.targets["step"] == number
        batch.targets["frozen"] += 1  # its own: the array it is made of must not change
    assert frozen.tolist() == [0, 1, 2, 3]


def test_a_batch_moves_with_all_that_is_in_it(tmp_path):
    batch = next(iter(loader(tmp_path)))
    moved = batch.to("meta")
    found = list(tensors_in(moved))
    assert len(found) == 3 + 2 * len(batch) and all(tensor.is_meta for tensor in found)
    assert [t["points"].shape for t in moved.targets] == [t["points"].shape for t in batch.targets]
    assert len({len(target["points"]) for target in batch.targets}) > 1
    assert repr(moved) == "LabelledBatch(4 images, 1 x 8 x 8, float32, on meta)"
    keyless = LabelledBatch(inputs=batch.inputs, targets=batch.targets, index=batch.index)
    assert keyless.to("meta").key is None


def test_batches_of_any_form_are_not_recorded_in_a_graph(tmp_path):
    options = toy_options(tmp_path)
    assert not wants_graph(options, World(0, 1, torch.device("cuda")), "fp32")


def scores_in_turn(*scores):
    """Return a `measure` with these scores, epoch by epoch."""
    remaining = iter(scores)
    return lambda student, world: {"test_score": next(remaining), "test_other": math.nan}


def best_of(folder):
    return load_checkpoint(folder / "checkpoint-best.pth")


def test_the_best_epoch_is_kept_by_the_name_that_was_asked_for(tmp_path):
    weights = {}

    def worse_in_between(student, world):
        epoch = len(weights)
        weights[epoch] = {k: v.clone() for k, v in student.state_dict().items()}
        return {"test_score": [-5.0, -2.0, -3.0][epoch], "test_other": float(epoch)}

    trained = train(toy_options(tmp_path), ALONE, tested_by=worse_in_between)
    assert trained.best == {"epoch": 1, "test_score": -2.0, "test_other": 1.0}
    assert trained.last == {"epoch": 2, "test_score": -3.0, "test_other": 2.0}
    best = best_of(tmp_path)
    assert best["metrics"] == trained.best and best["epoch"] == 1
    assert all(torch.equal(best["model"][name], weights[1][name]) for name in weights[1])
    lines = [json.loads(line) for line in (tmp_path / "log.txt").read_text().splitlines()]
    assert [line["test_score"] for line in lines] == [-5.0, -2.0, -3.0]


def epochs_tested_in(folder):
    """Return the epochs whose line in log.txt has the test's entries."""
    lines = [json.loads(line) for line in (folder / "log.txt").read_text().splitlines()]
    return [line["epoch"] for line in lines if "test_score" in line]


def test_some_epochs_are_tested_and_what_is_learned_stays_the_same(tmp_path):
    for name, freq in (("each", 1), ("some", 3), ("ends", 9)):
        train(toy_options(tmp_path / name, epochs=5, val_freq=freq), ALONE)
    assert [epochs_tested_in(tmp_path / name) for name in ("each", "some", "ends")] == [
        [0, 1, 2, 3, 4], [0, 3, 4], [0, 4],
    ]  # fmt: skip
    each, *others = (load_checkpoint(tmp_path / name / "checkpoint-last.pth")
                     for name in ("each", "some", "ends"))  # fmt: skip
    for other in others:
        assert all(torch.equal(each["model"][key], other["model"][key]) for key in each["model"])
        assert other["loader"]["last"] == each["loader"]["last"]


def test_the_best_is_one_of_the_tested_epochs_also_after_a_stop(tmp_path):
    options = toy_options(tmp_path, epochs=2, val_freq=2, save_freq=1)
    train(options, ALONE, tested_by=scores_in_turn(5.0, 4.0))
    (tmp_path / "checkpoint-1.pth").unlink()  # goes on from epoch 0, which was the best
    (tmp_path / "checkpoint-0.pth").rename(tmp_path / "checkpoint-last.pth")
    more = toy_options(tmp_path, epochs=6, val_freq=2, resume="auto")
    trained = train(more, ALONE, tested_by=scores_in_turn(6.0, 4.5, 4.25))
    assert trained.best["epoch"] == 2 == best_of(tmp_path)["epoch"]
    assert trained.last == {"epoch": 5, "test_score": 4.25, "test_other": pytest.approx(
        math.nan, nan_ok=True)}  # fmt: skip
    assert epochs_tested_in(tmp_path) == [0, 2, 4, 5]


def test_an_epoch_that_becomes_the_last_one_is_tested_then(tmp_path):
    train(toy_options(tmp_path, epochs=4, val_freq=3, save_freq=1), ALONE)
    (tmp_path / "checkpoint-2.pth").rename(tmp_path / "checkpoint-last.pth")
    fewer = toy_options(tmp_path, epochs=3, val_freq=3, resume="auto")
    trained = train(fewer, ALONE, tested_by=scores_in_turn(7.0))
    assert trained.last["epoch"] == 2 == trained.best["epoch"] == best_of(tmp_path)["epoch"]


def test_what_is_not_a_number_is_never_the_best(tmp_path, caplog):
    scores = scores_in_turn(math.nan, -1.0, math.nan)
    trained = train(toy_options(tmp_path), ALONE, tested_by=scores)
    assert trained.best["epoch"] == 1 == best_of(tmp_path)["epoch"]
    lines = [r.message for r in caplog.records if "not a number" in r.message]
    assert lines == [f"epoch {n}: test_score is not a number, so it is not kept as the best"
                     for n in (0, 2)]  # fmt: skip


def test_without_any_number_there_is_no_best_and_the_run_ends(tmp_path):
    scores = scores_in_turn(math.nan, math.nan)
    trained = train(toy_options(tmp_path, epochs=2), ALONE, tested_by=scores)
    assert trained.best == trained.last and trained.best["epoch"] == 1
    assert not (tmp_path / "checkpoint-best.pth").exists()


def test_a_resumed_run_knows_its_best_although_another_entry_is_nan(tmp_path, caplog):
    train(toy_options(tmp_path, epochs=1), ALONE, tested_by=scores_in_turn(2.0))
    options = toy_options(tmp_path, epochs=2, resume="auto")
    trained = train(options, ALONE, tested_by=scores_in_turn(1.0))
    assert trained.best["epoch"] == 0 == best_of(tmp_path)["epoch"]
    assert "is not of epoch" not in caplog.text
    train(toy_options(tmp_path, epochs=3, resume="auto"), ALONE,
          tested_by=scores_in_turn(1.5), tested_on=2)  # fmt: skip
    assert "the test images have changed" in caplog.text
    assert best_of(tmp_path)["metrics"]["test_score"] == 1.5


def test_a_finished_run_is_not_trained_again_and_keeps_its_options(tmp_path):
    first = train(toy_options(tmp_path), ALONE)
    again = train(toy_options(tmp_path, resume="auto", lr=1.0), ALONE, tested_by=scores_in_turn())
    assert (again.last, again.best) == (first.last, first.best)
    assert again.options.lr == first.options.lr and again.options.resume == "auto"


@pytest.mark.parametrize(
    ("name", "before", "now", "error", "words"),
    [
        (CLASSES, ["cat", "dog"], ["dog", "cat"], DataError, "is of 2 classes .cat, dog.; this"),
        (WEIGHTS, "1234", "5678", CheckpointError, "was trained from other weights"),
    ],
)
def test_what_settings_name_has_to_match_on_resuming(tmp_path, name, before, now, error, words):
    train(toy_options(tmp_path, epochs=1), ALONE, settings={name: before})
    options = toy_options(tmp_path, epochs=2, resume="auto")
    with pytest.raises(error, match=words):
        train(options, ALONE, settings={name: now})
    assert train(dataclasses.replace(options, epochs=2), ALONE, settings={name: before})


def test_the_measure_is_of_the_weights_that_are_kept(tmp_path):
    trained = train(toy_options(tmp_path), ALONE)
    student = ToyModel()
    student.load_state_dict(best_of(tmp_path)["model"])
    assert measure(student, ALONE)["test_score"] == trained.best["test_score"]
