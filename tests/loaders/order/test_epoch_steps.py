"""Resuming an epoch with other batches: nothing is lost, and repeated samples are counted."""

import re
import shutil

import numpy as np
import pytest
from back_ends import QUICK
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from fastimae.loaders.errors import DataError
from fastimae.loaders.image_location import SkipImage
from fastimae.loaders.order.epoch_steps import EpochSteps, digest_of
from fastimae.loaders.order.sampler import Sampler
from fastimae.loaders.settings import LoaderSettings

COUNT = 140
SEEDS = {"seed": 5, "mix_group": 0}
batches = st.tuples(st.integers(1, 9), st.integers(1, 4), st.integers(1, 3))


def ranks_of(batch_size, world_size, accum_iter, count=COUNT):
    return [
        Sampler(
            np.zeros(count, np.int64),
            LoaderSettings(batch_size=batch_size, accum_iter=accum_iter, **SEEDS),
            world_size=world_size, rank=rank,
        )
        for rank in range(world_size)
    ]  # fmt: skip


def shown(ranks, steps, epoch=3):
    """List the samples of some micro steps, of all ranks, in order."""
    return [int(i) for step in steps for rank in ranks for i in rank.step(epoch, step).index]


@settings(max_examples=60)
@given(batches, batches, st.data())
def test_no_sample_is_lost_and_the_repeated_ones_are_counted(before, after, data):
    old, new = ranks_of(*before), ranks_of(*after)
    updates = len(old[0]) // before[2]
    step = data.draw(st.integers(0, updates)) * before[2]
    state = old[0].epoch_steps.state(3, step)
    with pytest.MonkeyPatch.context() as patch:
        said = []
        patch.setattr(
            "fastimae.loaders.order.epoch_steps.log.warning",
            lambda text, *of: said.append(text % of),
        )
        epoch, start = new[0].epoch_steps.resume(state)
    assert epoch == 3 and start % after[2] == 0
    first, rest = shown(old, range(step)), shown(new, range(start, len(new[0])))
    if step == len(old[0]):
        assert rest == [] and said == []  # the next epoch begins
        return
    assert rest, "an epoch that was not finished has steps left to finish it with"
    seen_by_both = {*shown(old, range(len(old[0])))} & {*shown(new, range(len(new[0])))}
    assert seen_by_both <= {*first, *rest}
    repeated = len(first) + len(rest) - len({*first, *rest})
    assert [int(re.match(r"\d+", line)[0]) for line in said] == [repeated] * bool(repeated)
    if len(first) < (len(new[0]) - after[2]) * new[0].stride:  # fewer than a step's samples
        assert repeated < np.prod(after)


@given(batches, st.data())
def test_the_same_batches_resume_exactly(sizes, data):
    (steps, *_) = (rank.epoch_steps for rank in ranks_of(*sizes))
    step = data.draw(st.integers(0, len(steps)))
    assert steps.resume(steps.state(7, step)) == (7, step)
    step -= step % sizes[2]
    old = {name: steps.state(7, step)[name] for name in ("epoch", "step", "stride")}
    assert steps.resume(old) == (7, step)  # all that old checkpoints record


@given(batches, batches)
def test_an_old_state_of_an_epochs_end_begins_the_next_with_any_batches(before, after):
    assume(before[2] == 1)
    old, new = ranks_of(*before)[0].epoch_steps, ranks_of(*after)[0].epoch_steps
    state = {"epoch": 2, "step": len(old), "stride": old.stride}
    assert new.resume(state) == (2, len(new))


@given(batches, batches)
def test_so_does_an_old_state_with_a_known_accumulation(before, after):
    """A trainer knows it for every checkpoint: it is among the settings."""
    old, new = ranks_of(*before)[0].epoch_steps, ranks_of(*after)[0].epoch_steps
    state = {"epoch": 2, "step": len(old), "stride": old.stride, "accum_iter": old.accum_iter}
    assert new.resume(state) == (2, len(new))
    if len(old) > old.accum_iter:  # one step remains
        state["step"] -= old.accum_iter
        assert new.resume(state)[1] < len(new)


def cut(samples=100, data=1, **changes):
    return EpochSteps(
        **{"samples": samples, "data": data, "stride": 10, "accum_iter": 1, **changes}
    )


@pytest.mark.parametrize(
    ("now", "named"),
    [
        ({"samples": 90}, "100 samples then, 90 now"),
        ({"data": 2}, "100 samples as before, but other images or labels, or another order"),
    ],
    ids=["fewer", "others"],
)
def test_other_data_are_named_and_refused_within_an_epoch(now, named, caplog):
    with pytest.raises(DataError, match=f"within epoch 4 with other data .{named}"):
        cut(**now).resume(cut().state(4, 3))
    for step in (0, 10):
        caplog.clear()
        assert cut(**now).resume(cut().state(4, step)) == (4, step and len(cut(**now)))
        assert named in caplog.text
        cut(**now).resume(cut().state(4, step), main=False)
        assert len(caplog.records) == 1  # only one process logs it


def test_what_cannot_resume_within_an_epoch_is_told_the_way_out(caplog):
    assert cut(stride=25).resume(cut().state(2, 3)) == (2, 1)
    (line,) = caplog.messages
    assert line.startswith("5 samples of epoch 2 are repeated: 30 had been used, and a step now")
    assert "takes 25, not 10; to repeat none, resume with --batch_size, --accum_iter and" in line
    for epoch, way in ((2, "--resume a checkpoint-N.pth"), (0, "start a new run")):
        with pytest.raises(DataError, match=f"use the same data, or {way}"):
            cut(samples=90).resume(cut().state(epoch, 3))


def test_labels_distinguish_data_sets():
    labels = np.arange(50) % 7
    assert digest_of(labels) == digest_of(labels.astype(">i8")) != digest_of(labels[::-1])


@pytest.mark.parametrize("back_end", QUICK)
def test_a_copy_is_the_same_data_for_every_reader_and_others_are_not(data, tmp_path, back_end):
    """A copy has another name and other times; the other data have the same labels.

    A user's dataset is identified by its pixels, as it may have no files.
    """
    shutil.copytree(data.folder, tmp_path / "copy" / "images")
    shutil.copy(data.beton, tmp_path / "copy" / "images.beton")
    copy, other = (type(data)(tmp_path / name) for name in ("copy", "other"))
    (tmp_path / "other").mkdir()
    other.payloads = other.payloads[::-1]
    other.write()
    states = []
    for one in (data, copy, other):
        with one.loader(back_end) as loader:
            states.append(loader.state_dict())
    with data.loader("folder-0") as loader:
        folder = loader.state_dict()
    assert states[0] == states[1] == states[2] | {"data": states[0]["data"]}
    if not back_end.startswith("synthetic"):
        assert states[0]["data"] != states[2]["data"]
        assert (states[0] == folder) != back_end.startswith("dataset")


def test_the_digest_ignores_images_that_cannot_be_read():
    def read(index):
        if index % 2:
            raise SkipImage("no such file")
        return b"image"

    assert digest_of(np.zeros(40), read) == digest_of(np.zeros(40), read)
    assert digest_of(np.zeros(40), read) != digest_of(np.zeros(40))
