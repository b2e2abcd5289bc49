"""Properties of an epoch's order, of each rank's share and of the mixing partners."""

import itertools
import logging
import time

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from fastimae.loaders import create_loader
from fastimae.loaders.errors import DataError
from fastimae.loaders.order.philox import derive_keys
from fastimae.loaders.order.sampler import Sampler, endless
from fastimae.loaders.settings import LoaderSettings

UNLABELLED = np.full(40, -1)


def make(labels, *, batch_size=8, rank=0, world_size=1, **settings) -> Sampler:
    settings = LoaderSettings(batch_size=batch_size, **settings)
    settings.check()
    return Sampler(labels, settings, rank=rank, world_size=world_size)


def epoch_of(sampler: Sampler, epoch: int = 0) -> list:
    return [sampler.step(epoch, number) for number in range(len(sampler))]


def pairs_of(sampler: Sampler, epoch: int = 0) -> set[tuple[int, int]]:
    """List all pairs (sample, partner sample) of an epoch."""
    return {
        (int(a), int(b))
        for step in epoch_of(sampler, epoch)
        for a, b in zip(step.index, step.index[step.partner], strict=True)
    }


@settings(max_examples=40)
@given(
    count=st.integers(1, 200),
    batch_size=st.integers(1, 9),
    world_size=st.integers(1, 4),
    accum_iter=st.integers(1, 3),
    ratio=st.sampled_from([None, 0.0, 0.3, 1.0]),
    seed=st.integers(0, 2**63),
)
def test_ranks_are_disjoint_and_cover_whole_updates(
    count, batch_size, world_size, accum_iter, ratio, seed
):
    update = batch_size * world_size * accum_iter
    assume(count >= update and (ratio is None or batch_size % 2 == 0))
    shown = []
    for rank in range(world_size):
        sampler = make(
            np.arange(count) % 3,
            batch_size=batch_size,
            world_size=world_size,
            rank=rank,
            accum_iter=accum_iter,
            same_class_ratio=ratio,
            seed=seed,
        )
        assert len(sampler) == count // update * accum_iter
        shown += [step.index for step in epoch_of(sampler)]
    shown = np.concatenate(shown)
    assert len(shown) == count // update * update
    assert len(np.unique(shown)) == len(shown)
    assert shown.min() >= 0 and shown.max() < count


@pytest.mark.parametrize("ratio", [None, 0.5])
@pytest.mark.parametrize("copies", [1, 2])
@pytest.mark.parametrize(("world_size", "accum_iter"), [(2, 1), (1, 4), (2, 2)])
def test_optimizer_steps_do_not_depend_on_ranks_or_accumulation(
    ratio, copies, world_size, accum_iter
):
    """Each optimizer step has the same samples, keys and pairs, however it is divided."""
    labels = np.arange(100) % 7
    settings = {"mix_group": 4, "same_class_ratio": ratio, "seed": 3, "repeated_aug": copies}
    whole = make(labels, batch_size=32, **settings)
    parts = [
        make(
            labels,
            batch_size=32 // world_size // accum_iter,
            world_size=world_size,
            rank=rank,
            accum_iter=accum_iter,
            **settings,
        )
        for rank in range(world_size)
    ]
    for update in range(len(whole)):
        expected = whole.step(5, update)
        steps = [p.step(5, update * accum_iter + m) for m in range(accum_iter) for p in parts]
        assert np.array_equal(np.concatenate([s.index for s in steps]), expected.index)
        assert np.array_equal(np.concatenate([s.key for s in steps]), expected.key)
        partners = np.concatenate([s.index[s.partner] for s in steps])
        assert np.array_equal(partners, expected.index[expected.partner])
        assert all(s.step_key == expected.step_key for s in steps)


def test_order_and_keys_are_the_published_functions_of_the_seed():
    sampler = make(UNLABELLED, seed=11)
    step = sampler.step(2, 3)
    order = np.argsort(derive_keys(11, np.arange(40), 2, stream=2), kind="stable")
    assert np.array_equal(step.index, order[24:32])
    assert np.array_equal(step.key, derive_keys(11, order[24:32], 2, stream=0))
    assert np.array_equal(step.step_key, derive_keys(11, [3], 2, stream=1))


@given(
    copies=st.integers(1, 4),
    group=st.integers(1, 6),
    blocks=st.integers(1, 3),
    steps=st.integers(1, 3),
    left_over=st.integers(0, 5),
    mix_across_batch=st.booleans(),
)
def test_repeated_augmentation_repeats_each_block_in_succession(
    copies, group, blocks, steps, left_over, mix_across_batch
):
    """The order and the first copies' keys are those of a run without repetition."""
    if mix_across_batch:
        group, blocks = group * blocks, 1
    images = group * blocks
    labels = np.arange(images * steps + min(left_over, images - 1)) % 3
    settings = {"mix_group": 0 if mix_across_batch else group, "seed": 9}
    plain = make(labels, batch_size=images, **settings)
    sampler = make(labels, batch_size=images * copies, repeated_aug=copies, **settings)
    assert len(sampler) == len(plain) == steps
    for number in range(steps):
        once, step = plain.step(4, number), sampler.step(4, number)
        shape = (blocks, copies, group)
        index, key = step.index.reshape(shape), step.key.reshape(shape)
        assert np.array_equal(index[:, 0].ravel(), once.index)
        assert np.array_equal(key[:, 0].ravel(), once.key)
        assert (index == index[:, :1]).all()
        assert len(np.unique(key)) == key.size
        partner = step.partner.reshape(shape)
        start = np.arange(len(step.index)).reshape(shape)[..., :1]
        assert np.array_equal(np.sort(partner), start + np.arange(group))
        if group > 1:
            assert (step.index[step.partner] != step.index).all()


def test_copies_meet_different_partners():
    sampler = make(UNLABELLED, batch_size=24, mix_group=4, repeated_aug=3)
    step = sampler.step(0, 0)
    partners = step.index[step.partner].reshape(2, 3, 4)
    for block in np.moveaxis(partners, 1, 2).reshape(-1, 3):
        assert len(set(block)) == 3


@pytest.mark.parametrize("ratio", [None, 0.5])
def test_ratio_counts_all_copies(ratio):
    labels = np.arange(96) % 3
    sampler = make(
        labels, batch_size=32, mix_group=8, repeated_aug=2, same_class_ratio=ratio, seed=1
    )
    same = [labels[s.index] == labels[s.index[s.partner]] for s in epoch_of(sampler)]
    assert sampler.plan(0).same_class_ratio == pytest.approx(np.mean(same))
    assert ratio is None or np.mean(same) == pytest.approx(ratio, abs=0.02)


def test_order_changes_with_epoch_and_seed():
    orders = [make(UNLABELLED, seed=s).plan(e).order.tolist() for s in (0, 1) for e in (0, 1)]
    assert len({tuple(order) for order in orders}) == 4
    assert orders[0] == make(UNLABELLED, seed=0).plan(0).order.tolist()


@given(group=st.integers(1, 8), groups=st.integers(1, 3), seed=st.integers(0, 1000))
def test_uniform_partners_are_one_cycle_in_each_group(group, groups, seed):
    sampler = make(np.arange(64), batch_size=group * groups, mix_group=group, seed=seed)
    partner = sampler.step(0, 0).partner
    for start in range(0, len(partner), group):
        position, seen = start, []
        for _ in range(group):
            seen.append(position)
            position = partner[position]
        assert position == start and sorted(seen) == list(range(start, start + group))


def test_uniform_partners_are_uniform():
    """Over many epochs all ordered pairs of different samples are about equally frequent."""
    sampler, count = make(np.arange(6), batch_size=6), np.zeros((6, 6), dtype=int)
    for epoch in range(1000):
        for a, b in pairs_of(sampler, epoch):
            count[a, b] += 1
    off_diagonal = count[~np.eye(6, dtype=bool)]
    assert count.trace() == 0
    assert abs(off_diagonal - 200).max() < 5 * np.sqrt(200)


@pytest.mark.parametrize("settings", [{"reciprocal_pairs": True}, {"same_class_ratio": 0.5}])
def test_reciprocal_pairs(settings):
    sampler = make(np.arange(64) % 4, batch_size=16, mix_group=8, **settings)
    for step in epoch_of(sampler):
        assert np.array_equal(step.partner[step.partner], np.arange(16))
        assert (step.partner != np.arange(16)).all()
        assert np.array_equal(step.partner // 8, np.arange(16) // 8)


@settings(max_examples=40)
@given(
    classes=st.integers(2, 20),
    per_class=st.integers(2, 8),
    ratio=st.floats(0, 1),
    seed=st.integers(0, 2**32),
)
def test_same_class_ratio_is_met_where_labels_allow(classes, per_class, ratio, seed):
    """Balanced classes of even size allow any ratio, up to rounding."""
    labels = np.random.default_rng(seed).permutation(np.arange(classes * per_class * 2) % classes)
    sampler = make(labels, batch_size=2, same_class_ratio=ratio, seed=seed)
    pairs = len(labels) // 2
    realised = sampler.plan(0).same_class_ratio
    # One mixed pair would leave two odd classes, so 0 or 2 may be the best possible.
    assert abs(realised - ratio) <= 1.5 / pairs + 1e-9
    shown = np.mean([labels[a] == labels[b] for a, b in pairs_of(sampler)])
    assert shown == pytest.approx(realised)


@given(
    labels=st.lists(st.integers(0, 5), min_size=2, max_size=60),
    ratio=st.sampled_from([0.0, 0.4, 1.0]),
)
def test_any_labels_give_a_valid_order(labels, ratio):
    order = make(np.array(labels), batch_size=2, same_class_ratio=ratio).plan(0).order
    assert len(order) == len(labels) // 2 * 2
    assert len(np.unique(order)) == len(order)


@pytest.mark.parametrize("ratio", [0.0, 0.3, 1.0])
def test_ratio_holds_in_every_batch_with_a_thousand_classes(ratio):
    labels = np.arange(20000) % 1000
    sampler = make(labels, batch_size=20, same_class_ratio=ratio)
    for number in range(0, len(sampler), 50):
        step = sampler.step(0, number)
        same = labels[step.index] == labels[step.index[step.partner]]
        assert same.mean() == pytest.approx(ratio)


@pytest.mark.parametrize(("first", "ratio"), [(50, 0.0), (76, 0.52), (76, 0.6), (90, 0.8)])
def test_ratio_is_met_with_one_large_class(first, ratio):
    """The large class must form the pairs within it that no other class can match."""
    labels = np.array([0] * first + [1, 2] * 50)[:100]
    plan = make(labels, same_class_ratio=ratio, batch_size=2).plan(0)
    assert plan.same_class_ratio == pytest.approx(ratio)


def test_classes_meet_other_classes_each_epoch():
    """Pairs of different classes are not always the same two classes."""
    labels = np.arange(200) % 4
    sampler = make(labels, batch_size=4, same_class_ratio=0.0)
    met = {(labels[a], labels[b]) for a, b in pairs_of(sampler)}
    assert len(met) == 12
    assert pairs_of(sampler, 0) != pairs_of(sampler, 1)


@pytest.mark.parametrize(
    ("labels", "ratio", "reason"),
    [
        (np.arange(100), 0.5, "the classes have only 0 pairs"),
        (np.zeros(100, dtype=int), 0.0, "one class has more than half"),
        (np.arange(100) % 10, 0.5, None),
    ],
)
def test_ratio_is_logged_and_a_miss_is_explained(caplog, labels, ratio, reason):
    sampler = make(labels, same_class_ratio=ratio, batch_size=10)
    with caplog.at_level(logging.INFO, "fastimae"):
        sampler.step(0, 0)
        sampler.step(0, 1)
    assert [r.levelname for r in caplog.records] == ["INFO", *(["WARNING"] if reason else [])]
    assert "of the mixtures share a class" in caplog.messages[0]
    assert reason is None or (reason in caplog.text and "--same_class_ratio" in caplog.text)


def test_ratio_of_unlabelled_data_is_unknown():
    assert make(UNLABELLED).plan(0).same_class_ratio is None


@pytest.mark.parametrize(
    ("settings", "flags"),
    [
        ({"batch_size": 41}, ["--batch_size"]),
        ({"batch_size": 8, "accum_iter": 3, "world_size": 2}, ["--batch_size", "--accum_iter"]),
        ({"batch_size": 0}, ["--batch_size"]),
        ({"batch_size": 8, "mix_group": 3}, ["--batch_size", "--mix_group"]),
        ({"batch_size": 8, "mix_group": 16}, ["--batch_size", "--mix_group"]),
        ({"batch_size": 8, "repeated_aug": 0}, ["--repeated_aug"]),
        ({"batch_size": 1, "repeated_aug": 2}, ["--batch_size", "--repeated_aug"]),
        ({"batch_size": 8, "repeated_aug": 3}, ["--batch_size", "--repeated_aug"]),
        (
            {"batch_size": 8, "mix_group": 4, "repeated_aug": 4},
            ["--batch_size", "--mix_group", "--repeated_aug"],
        ),
        (
            {"batch_size": 6, "repeated_aug": 2, "reciprocal_pairs": True},
            ["--reciprocal_pairs", "--mix_group"],
        ),
        ({"batch_size": 88, "repeated_aug": 2}, ["--batch_size", "--repeated_aug"]),
        ({"batch_size": 9, "reciprocal_pairs": True}, ["--reciprocal_pairs", "--mix_group"]),
        ({"batch_size": 8, "same_class_ratio": 0.5}, ["--same_class_ratio", "label"]),
        ({"batch_size": 8, "same_class_ratio": 1.5}, ["--same_class_ratio"]),
        ({"batch_size": 9, "same_class_ratio": 0.5}, ["--same_class_ratio", "--mix_group"]),
    ],
)
def test_settings_that_do_not_fit_name_the_flag(settings, flags):
    with pytest.raises(DataError) as caught:
        make(UNLABELLED, **settings)
    assert all(flag in str(caught.value) for flag in flags) and "\n" not in str(caught.value)


def test_an_endless_loader_yields_one_epoch_after_another():
    made = {"synthetic": True, "synthetic_samples": 20, "batch_size": 8, "mix_group": 0}
    with create_loader(**made) as loader, endless(create_loader(**made)) as goes_on:
        batches = iter(goes_on)
        for epoch in range(3):
            loader.set_epoch(epoch)
            for expected, batch in zip(loader, itertools.islice(batches, len(loader)), strict=True):
                assert torch.equal(batch.key, expected.key)
                assert torch.equal(batch.images, expected.images)
        assert goes_on.epoch == 0 and goes_on.sampler.stride == 8


@pytest.mark.parametrize(("ratio", "limit"), [(None, 2.0), (0.5, 10.0)])
def test_plan_of_imagenet_size_is_quick(ratio, limit):
    count = 1_281_167
    labels = np.random.default_rng(0).integers(0, 1000, count)
    sampler = make(labels, batch_size=4096, mix_group=32, same_class_ratio=ratio)
    start = time.process_time()
    plan = sampler.plan(0)
    assert time.process_time() - start < limit
    assert plan.same_class_ratio == pytest.approx(0.001 if ratio is None else ratio, abs=0.001)
