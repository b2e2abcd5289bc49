"""Few images: a choice that follows from seed and labels, and is the same wherever it is made."""

import logging

import numpy as np
import pytest
import torch
from back_ends import QUICK
from hypothesis import given
from hypothesis import strategies as st

from fastimae.loaders import create_loader
from fastimae.loaders.errors import DataError
from fastimae.loaders.order.choice import chosen_images
from fastimae.loaders.order.philox import derive_keys
from fastimae.loaders.order.sampler import Sampler
from fastimae.loaders.settings import ChoiceSettings, LoaderSettings

labellings = st.lists(st.integers(0, 6), min_size=1, max_size=80).map(np.array)


def chosen(labels, seed=0, **choice):
    return chosen_images(labels, ChoiceSettings(**choice), seed)


@given(labels=labellings, seed=st.integers(0, 2**63), data=st.data())
def test_images_are_what_they_are_said_to_be_and_fewer_are_among_more(labels, seed, data):
    sizes = np.unique(labels, return_counts=True)[1]
    most = {"random": len(labels), "one_class": sizes.max(), "one_per_class": len(sizes)}
    for images_from, limit in most.items():
        count = data.draw(st.integers(1, int(limit)))
        found = chosen(labels, seed, images=count, images_from=images_from)
        assert len(found) == count and (np.diff(found) > 0).all() and found.min() >= 0
        classes = len(np.unique(labels[found]))
        assert {"one_class": 1, "one_per_class": count}.get(images_from, classes) == classes
        if images_from != "one_class":  # a larger number may need a larger class
            fewer = chosen(labels, seed, images=max(1, count // 2), images_from=images_from)
            assert set(fewer) <= set(found)
    whole = chosen(labels, seed, images_from="one_per_class")
    assert np.array_equal(np.sort(labels[whole]), np.unique(labels))


def test_it_is_the_published_function_of_the_seed():
    labels = np.arange(60) % 5
    keys = derive_keys(7, np.arange(60), 0, stream=6)
    assert np.array_equal(chosen(labels, 7, images=9), np.sort(np.argsort(keys)[:9]))
    first = [min(np.flatnonzero(labels == c), key=keys.__getitem__) for c in range(5)]
    assert np.array_equal(chosen(labels, 7, images_from="one_per_class"), np.sort(first))
    drawn = derive_keys(7, np.arange(5), 0, stream=6, copies=1).argmin()
    assert set(labels[chosen(labels, 7, images=12, images_from="one_class")]) == {drawn}


def test_all_images_and_all_classes_are_equally_likely():
    labels = np.repeat(np.arange(4), [5, 5, 5, 2])
    counts = sum(np.bincount(chosen(labels, s, images=3), minlength=17) for s in range(2000))
    assert abs(counts - 2000 * 3 / 17).max() < 5 * np.sqrt(2000 * 3 / 17)
    classes = [labels[chosen(labels, s, images=3, images_from="one_class")][0] for s in range(900)]
    assert abs(np.bincount(classes, minlength=4) - [300, 300, 300, 0]).max() < 5 * np.sqrt(300)


@pytest.mark.parametrize(
    ("labels", "choice", "message"),
    [
        ([0, 1, 1], {"images": 4}, "--images 4: there are only 3 images"),
        (
            [0, 1, 1],
            {"images": 3, "images_from": "one_per_class"},
            "--images 3 --images_from one_per_class: there are only 2 classes",
        ),
        (
            [0, 1, 1],
            {"images": 3, "images_from": "one_class"},
            "--images 3 --images_from one_class: the largest class has 2 images",
        ),
        ([0, -1], {"images_from": "one_class"}, "--images_from one_class needs a label"),
        ([-1, -1], {"images_from": "one_per_class"}, "--images_from one_per_class needs a label"),
    ],
)
def test_what_cannot_be_chosen_is_one_line_with_the_flag(labels, choice, message):
    with pytest.raises(DataError) as caught:
        chosen(np.array(labels), **choice)
    assert str(caught.value).startswith(message) and "\n" not in str(caught.value)


@pytest.mark.parametrize("back_end", QUICK)
def test_every_back_end_shows_these_images_alone(data, back_end):
    few = {"images": 4, "images_from": "one_class", "batch_size": 2, "mix_group": 2, "seed": 2}
    with data.loader(back_end, **few) as loader, data.loader(back_end, seed=2) as whole:
        chosen = set(loader.sampler.chosen.tolist())
        assert len(chosen) == 4 and len(loader) == 2
        batches = list(loader)
        assert {int(i) for batch in batches for i in batch.index} == chosen
        assert len({int(label) for batch in batches for label in batch.labels}) == 1
        rows = [pair for b in whole for pair in zip(b.index.tolist(), b.images, strict=True)]
        alike = dict(rows)
        for batch in batches:  # with the crops that they have among all images
            for index, image in zip(batch.index.tolist(), batch.images, strict=True):
                assert index not in alike or torch.equal(alike[index], image)
        assert set(loader.fixed_batch(16).index.tolist()) == chosen


def test_other_images_are_other_data():
    """Even without labels, and of images that look alike: the state of a loader says which."""
    labels, of = np.full(40, -1), LoaderSettings
    samplers = [
        Sampler(labels, of(batch_size=4, seed=seed, images=images))
        for images, seed in ((20, 0), (20, 1), (None, 0))
    ]
    states = [sampler.epoch_steps.state(0, 2) for sampler in samplers]
    assert len({state["data"] for state in states}) == 3
    with pytest.raises(DataError, match="within epoch 0 with other data"):
        samplers[1].epoch_steps.resume(states[0])


@pytest.mark.parametrize(
    ("choice", "line"),
    [
        ({"images": 30}, "--images 30: 30 of the 60 images, 10 classes"),
        (
            {"images": 4, "images_from": "one_class", "seed": 1},
            "--images 4 --images_from one_class: 4 of the 60 images, class 5",
        ),
        ({"images_from": "one_per_class"}, "--images_from one_per_class: 10 of the 60 images, 10"),
        ({"images": 60}, None),
    ],
)
def test_the_choice_is_logged(caplog, choice, line):
    with caplog.at_level(logging.INFO, "fastimae"):
        create_loader(synthetic=True, synthetic_samples=60, batch_size=2, **choice).close()
    told = [message for message in caplog.messages if message.startswith("--images")]
    assert len(told) == bool(line) and (line is None or told[0].startswith(line))


def test_the_class_is_logged_by_name(data, caplog):
    with caplog.at_level(logging.INFO, "fastimae"):
        data.loader(
            "folder-0", images=2, images_from="one_class", batch_size=2, mix_group=2
        ).close()
    assert any("class " in line and "(class" in line for line in caplog.messages)
