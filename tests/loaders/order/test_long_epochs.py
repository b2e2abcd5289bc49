"""An epoch of any number of draws: each image as often as the next, and none its own partner."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fastimae.loaders.errors import DataError
from fastimae.loaders.order.passes import apart, without_self
from fastimae.loaders.order.philox import derive_keys
from fastimae.loaders.order.sampler import Sampler
from fastimae.loaders.order.sampler_checks import check_partners
from fastimae.loaders.settings import LoaderSettings


def make(labels, *, rank=0, world_size=1, **given):
    return Sampler(labels, LoaderSettings(**given), rank=rank, world_size=world_size)


def steps_of(sampler, epoch=0):
    return [sampler.step(epoch, number) for number in range(len(sampler))]


@st.composite
def runs(draw):
    """Draw a sampler's images and settings: groups that two images can be paired in."""
    images, group = draw(st.integers(2, 12)), draw(st.integers(2, 9))
    in_pairs = draw(st.booleans())
    group += group % 2 if images == 2 or in_pairs else 0
    copies, blocks = draw(st.integers(1, 3)), draw(st.integers(1, 3))
    least = group * blocks
    return images, {
        "batch_size": group * copies * blocks, "mix_group": group, "repeated_aug": copies,
        "reciprocal_pairs": in_pairs, "seed": draw(st.integers(0, 2**63)),
        "epoch_samples": draw(st.integers(least, 12 * least)),
    }  # fmt: skip


@settings(max_examples=150, deadline=None)
@given(run=runs(), epoch=st.integers(0, 1000))
def test_images_are_drawn_equally_often_with_other_keys_and_partners(run, epoch):
    images, given = run
    sampler = make(np.full(images, -1), **given)
    order = sampler.plan(epoch).order
    counts = np.bincount(order, minlength=images)
    draws = given["epoch_samples"]
    assert counts.min() >= draws // images and counts.max() <= -(-draws // images)
    assert counts.sum() == draws
    keys = []
    for step in steps_of(sampler, epoch):
        rows = np.arange(len(step.index))
        assert np.array_equal(np.sort(step.partner), rows)
        assert np.array_equal(step.partner // sampler.group, rows // sampler.group)
        assert (step.index[step.partner] != step.index).all()
        if given["reciprocal_pairs"]:
            assert np.array_equal(step.partner[step.partner], rows)
        keys.append(step.key)
    keys = np.concatenate(keys)
    assert len(np.unique(keys)) == len(keys)


@given(st.integers(1, 9), st.integers(1, 30), st.integers(0, 1000))
def test_an_image_does_not_come_again_at_once(images, passes, seed):
    rng = np.random.default_rng(seed)
    order = apart(rng.permuted(np.tile(np.arange(images), (passes, 1)), axis=1))
    assert np.array_equal(np.sort(order.reshape(passes, images)), [np.arange(images)] * passes)
    for distance in range(1, min(3, images)):
        assert (order[distance:] != order[:-distance]).all()


def test_new_partners_only_where_an_image_would_be_its_own():
    index, partner = np.array([5, 6, 7, 5, 1, 2, 3, 4]), np.array([1, 2, 3, 0, 5, 6, 7, 4])
    mended = without_self(index, partner, 4)
    assert np.array_equal(mended[4:], partner[4:])
    assert (index[mended] != index).all() and np.array_equal(np.sort(mended), np.arange(8))


def test_an_epoch_without_the_flag_is_as_it_was_and_begins_a_long_one():
    labels = np.arange(40) % 4
    whole, same, long = (
        make(labels, batch_size=8, seed=3, epoch_samples=count) for count in (None, 40, 100)
    )
    order = np.argsort(derive_keys(3, np.arange(40), 2, stream=2), kind="stable")
    for one in (whole, same):
        assert np.array_equal(one.plan(2).order, order)
    assert np.array_equal(long.plan(2).order[:40], order)
    for number in range(5):
        expected = whole.step(2, number)
        for one in (same, long):
            step = one.step(2, number)
            assert np.array_equal(step.key, expected.key)
            assert np.array_equal(step.partner, expected.partner)
    # The second time that an image comes, its key is the second copy's.
    step = long.step(2, 6)
    assert np.array_equal(step.key, derive_keys(3, step.index, 2, stream=0, copies=1))


def test_a_short_epoch_draws_other_images_each_time():
    sampler = make(np.full(30, -1), batch_size=4, epoch_samples=9)
    orders = [sampler.plan(epoch).order for epoch in range(40)]
    assert len(sampler) == 2 and all(len(set(order)) == 9 for order in orders)
    assert set(np.concatenate(orders)) == set(range(30))


@pytest.mark.parametrize(("world_size", "accum_iter"), [(2, 1), (1, 3), (3, 2)])
@pytest.mark.parametrize("copies", [1, 2])
def test_steps_do_not_depend_on_ranks_or_accumulation(world_size, accum_iter, copies):
    """Samples, keys and partners of three images in 10 steps of 24, however they are divided."""
    few = {"images": 3, "epoch_samples": 240 // copies, "mix_group": 4, "repeated_aug": copies}
    labels = np.full(50, -1)
    whole = make(labels, batch_size=48, **few)
    size = 48 // world_size // accum_iter
    parts = [
        make(labels, batch_size=size, accum_iter=accum_iter, rank=r, world_size=world_size, **few)
        for r in range(world_size)
    ]
    for update in range(len(whole)):
        expected = whole.step(1, update)
        steps = [p.step(1, update * accum_iter + m) for m in range(accum_iter) for p in parts]
        for field in ("index", "key"):
            rows = np.concatenate([getattr(step, field) for step in steps])
            assert np.array_equal(rows, getattr(expected, field))
        partners = np.concatenate([step.index[step.partner] for step in steps])
        assert np.array_equal(partners, expected.index[expected.partner])


@pytest.mark.parametrize("count", [8, 9])
def test_same_class_pairs_hold_in_every_pass(count):
    """An odd number of images leaves out one in each pass; each pass has pairs of its own."""
    labels = np.arange(count) % 2
    sampler = make(labels, batch_size=4, same_class_ratio=0.5, epoch_samples=80, seed=4)
    plan = sampler.plan(0)
    assert plan.a_pass == 8 and len(plan.order) == 80
    assert plan.same_class_ratio == pytest.approx(0.5, abs=0.01 if count == 8 else 0.1)
    for a_pass in plan.order.reshape(10, 8):
        assert len(set(a_pass)) == 8
    assert all((step.index[step.partner] != step.index).all() for step in steps_of(sampler))
    keys = np.concatenate([step.key for step in steps_of(sampler)])
    assert len(np.unique(keys)) == 80


@pytest.mark.parametrize(
    ("images", "given", "flag"),
    [
        (5, {"batch_size": 8}, "--epoch_samples"),
        (5, {"batch_size": 8, "epoch_samples": 7}, "--epoch_samples"),
        (1, {"batch_size": 2, "epoch_samples": 1 << 25}, "--epoch_samples 33554432"),
        (1, {"batch_size": 2, "epoch_samples": 8, "same_class_ratio": 0.5}, "--same_class_ratio"),
    ],
)
def test_what_does_not_fit_names_the_flag(images, given, flag):
    with pytest.raises(DataError, match=flag):
        make(np.zeros(images, int), **given)


def test_one_image_has_no_partner_and_two_need_even_groups():
    one = make(np.zeros(1, int), batch_size=4, epoch_samples=8)
    assert [step.index.tolist() for step in steps_of(one)] == [[0] * 4] * 2
    for few, size, flag in ((1, 4, "--images"), (2, 3, "--mix_group")):
        with pytest.raises(DataError, match=flag):
            check_partners(make(np.zeros(few, int), epoch_samples=12, batch_size=size))
    check_partners(make(np.zeros(2, int), epoch_samples=12, batch_size=4))
    check_partners(make(np.zeros(3, int), epoch_samples=12, batch_size=3))
