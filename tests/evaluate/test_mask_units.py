"""Mask units: evaluation masks the squares that a model was trained with."""

import json

import pytest
import torch
from tiny import save_run, tiny_model
from toy_images import save_colours
from undrawn import undrawn

from fastimae.evaluate.candidates import load_candidates
from fastimae.evaluate.images import open_images
from fastimae.evaluate.mixing.mask_units import mask_columns, mask_unit_of
from fastimae.evaluate.mixing.mixtures import PairBatches, Pairs
from fastimae.evaluate.mixing.reconstruction import reconstruct
from fastimae.evaluate.options.figures import ReconstructOptions
from fastimae.evaluate.options.mixtures import SeparabilityOptions
from fastimae.kernels import random_masking
from fastimae.kernels.random_masking import masked_share
from fastimae.objectives import IMAE, MAE
from fastimae.objectives.settings import IMAESettings, MaskSettings

pytest.importorskip("torchmetrics")
pytest.importorskip("piq")
from fastimae.evaluate.tasks import reconstruct as task
from fastimae.evaluate.tasks import separability

SMALL = {"img_size": 64, "patch_size": 4}
"""16 x 16 patches."""


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    return save_colours(tmp_path_factory.mktemp("colours") / "data", 4, size=64)


@pytest.fixture
def trained_with(tmp_path):
    """Save a checkpoint of a training with these settings."""

    def save(name, heads=1, **settings):
        model = tiny_model(heads=heads, **SMALL)
        return save_run(tmp_path / name, model, **settings)

    return save


def candidate(path):
    return load_candidates([path], torch.device("cpu"))[0]


def squares(values, side):
    """Cut [B, 16, 16, ...] into squares: [B, 16 / side, 16 / side, side * side, ...]."""
    count = values.shape[1] // side
    parts = values.unflatten(2, (count, side)).unflatten(1, (count, side)).transpose(2, 3)
    return parts.flatten(3, 4)


def test_masks_are_unions_of_the_squares_of_the_training(images, trained_with):
    """Those that are drawn, and all others under which a patch is predicted."""
    one = candidate(trained_with("unit4", mask_patch_size=16))
    unit = mask_unit_of(one, None)
    assert unit == 4
    settings = {"samples": 12, "batch_size": 12, "workers": 0}
    batch = next(iter(PairBatches(open_images(images), one.model, **settings)))
    seen = []
    encode = one.model.encode
    one.model.encode = lambda patches, ids, *key: seen.append(ids) or encode(patches, ids, *key)
    result = reconstruct(one.model, batch, 0.7, unit=unit)
    assert len(seen) == 2  # 12 of 16 squares, and then the other 4 among 12
    for ids_keep in seen:
        visible = torch.zeros(12, 256).scatter_(1, ids_keep.long(), 1.0).view(12, 16, 16)
        of_squares = squares(visible, 4)
        assert torch.equal(of_squares.amin(3), of_squares.amax(3))
        assert of_squares.amax(3).sum((1, 2)).eq(4).all()
    assert (squares(visible, 8).amin(3) != squares(visible, 8).amax(3)).any()  # and of no larger
    gray = squares(result.masked.eq(128).all(-1).float(), 16)
    assert gray.amax(3).sum((1, 2)).eq(12).all() and gray.amin(3).sum((1, 2)).eq(12).all()


@pytest.mark.parametrize(
    ("settings", "asked", "unit"),
    [({}, None, 1), ({"mask_patch_size": None}, None, 1), ({"mask_patch_size": "16"}, None, 1),
     ({"mask_patch_size": 8}, None, 2), ({"mask_patch_size": 8}, 16, 4), ({}, 32, 8)],
)  # fmt: skip
def test_the_unit_is_that_of_the_user_or_of_the_training_or_a_patch(
    trained_with, settings, asked, unit
):
    assert mask_unit_of(candidate(trained_with("some", **settings)), asked) == unit


@pytest.mark.parametrize(
    ("side", "unit", "ratio", "share"),
    [(28, 4, 0.9, 45 / 49), (28, 4, 0.25, 13 / 49), (14, 1, 0.75, 0.75), (14, 1, 0.9, 177 / 196)],
)
def test_the_realised_share_is_that_of_the_masks(side, unit, ratio, share):
    """For example 0.918 and 0.265 with units of 32 pixels, of ViTs with patches of 8, at 224."""
    drawn = random_masking(torch.arange(3), (side, side), ratio, unit).mask
    assert drawn.mean().item() == pytest.approx(share)
    assert masked_share((side, side), ratio, unit) == pytest.approx(share)
    assert masked_share((side, side), 0, unit) == 0


def test_nothing_masked_has_no_unit():
    assert mask_columns(tiny_model(), 0, 2) == {"masked": 0, "mask_patch_size": None}
    assert mask_columns(tiny_model(), 0.6, 2) == {"masked": 0.75, "mask_patch_size": 16}


@pytest.mark.parametrize("objective", [MAE, IMAE])
def test_training_says_what_it_masks_if_that_is_not_what_is_asked(objective, caplog):
    caplog.set_level("INFO", "fastimae")
    settings = MaskSettings if objective is MAE else IMAESettings

    class Models:
        def student(self, heads=1, **_):
            return tiny_model(heads=heads)

        def teacher(self, *_, **__):
            return None

    said = "masked: 0.75 of each image instead of --mask_ratio 0.7, as it has 2 x 2 squares of 16"
    for ratio, size, lines in ((0.7, 16, 1), (0.75, 16, 0), (0.75, None, 0)):
        caplog.clear()
        objective.build(settings(mask_ratio=ratio, mask_patch_size=size), Models())
        found = [line for line in caplog.messages if line.startswith("masked: ")]
        assert len(found) == lines and all(line.startswith(said) for line in found)


def numbers_of(folder):
    return json.loads((folder / "results.json").read_text())["numbers"]


@pytest.mark.parametrize(("asked", "sizes"), [(None, [4, 16]), (8, [8, 8])])
@undrawn()
def test_reconstruct_masks_each_model_as_it_was_trained(
    tmp_path, images, trained_with, asked, sizes
):
    paths = trained_with("plain"), trained_with("unit4", mask_patch_size=16)
    task.run(ReconstructOptions(
        checkpoint=paths[0], others=paths[1:], data_path=images, mask_ratios=(0.7,),
        mask_patch_size=asked, samples=4, pictures=1, num_workers=0, device="cpu",
        output_dir=tmp_path / "out",
    ))  # fmt: skip
    rows = [row for row in numbers_of(tmp_path / "out")["table"] if row["view"] == "whole"]
    assert [row["mask_patch_size"] for row in rows] == sizes
    wanted = {4: 1 - 76 / 256, 8: 1 - 19 / 64, 16: 1 - 4 / 16}
    assert [row["masked"] for row in rows] == [pytest.approx(wanted[size]) for size in sizes]


@pytest.mark.parametrize(("asked", "unit"), [(None, 4), (8, 2)])
@undrawn()
def test_models_that_share_a_target_share_their_masks(
    tmp_path, images, trained_with, monkeypatch, caplog, asked, unit
):
    """Those of --checkpoint; other rows, and the teacher, are said to differ."""
    used = []
    draw = Pairs.mask
    monkeypatch.setattr(Pairs, "mask", lambda *given: used.append(given[-1]) or draw(*given))
    first = trained_with("first", heads=2, mask_patch_size=16)
    same = trained_with("same", heads=2, mask_patch_size=16)
    teacher = trained_with("teacher")
    separability.run(SeparabilityOptions(
        checkpoint=first, others=(same, teacher), teacher=teacher, data_path=images, val=images,
        mix_ratios=(0.3,), train_samples=6, val_samples=6, batch_size=6, steps=1, num_workers=0,
        mask_ratio=0.7, mask_patch_size=asked, device="cpu", output_dir=tmp_path / "out",
    ))  # fmt: skip
    assert set(used) == {unit}
    warned = [line for line in caplog.messages if "was trained with --mask_patch_size" in line]
    assert len(warned) == (0 if asked else 2)
    assert all(f"{teacher} was trained with --mask_patch_size 4, and is measured with 16" in line
               for line in warned)  # fmt: skip
    rows = numbers_of(tmp_path / "out")["table"]
    assert {(row["masked"], row["mask_patch_size"]) for row in rows} == {
        (0.75 if unit == 4 else 45 / 64, 4 * unit)
    }


def test_pictures_of_training_show_its_masks_only(make_batch):
    student = tiny_model(heads=2, img_size=32, patch_size=4)
    seen = []
    encode = student.encode
    student.encode = lambda patches, ids, *key: seen.append(ids) or encode(patches, ids, *key)
    IMAE(student, mask_ratio=0.7, mask_unit=2).reconstruct(make_batch(4, (32, 32)))
    assert len(seen) == 2
    for ids_keep in seen:
        visible = torch.zeros(4, 64).scatter_(1, ids_keep.long(), 1.0).view(4, 8, 8)
        assert torch.equal(squares(visible, 2).amin(3), squares(visible, 2).amax(3))
