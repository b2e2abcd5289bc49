"""M_ls: pairs, latents, the table and its errors; equation 6 is in test_separability_spaces.py."""

import collections
import json

import numpy as np
import pytest
import torch
from PIL import Image
from tiny import save_run, tiny_model
from undrawn import undrawn

from fastimae.evaluate.candidates import load_frozen, names_of
from fastimae.evaluate.images import open_images
from fastimae.evaluate.mixing import comparison
from fastimae.evaluate.mixing.mixtures import PairBatches, clean_latents, mixture_latents
from fastimae.evaluate.tasks.separability import SeparabilityOptions, run
from fastimae.settings import ConfigError


def some_pairs(source, model, **changes):
    settings = {"samples": 20, "batch_size": 8, "workers": 0}
    return list(PairBatches(open_images(source), model, **{**settings, **changes}))


def test_pairs_are_the_same_again_and_never_of_an_image_with_itself(image_folder):
    model = tiny_model()
    first, again = some_pairs(image_folder, model), some_pairs(image_folder, model)
    assert [len(batch.images) for batch in first] == [8, 8, 4]
    for one, two in zip(first, again, strict=True):
        assert torch.equal(one.images, two.images) and torch.equal(one.key, two.key)
        own = torch.arange(len(one.partner))
        assert (one.partner != own).all() and torch.equal(one.partner.sort().values, own)
    other = some_pairs(image_folder, model, seed=1)
    assert not torch.equal(first[0].images, other[0].images)
    assert len(some_pairs(image_folder, model, samples=17)) == 2  # one image has no partner
    assert len({label for batch in first for label in batch.labels.tolist()}) > 1


def seen(patches, ids_keep):
    return torch.stack([own[ids.long()] for own, ids in zip(patches, ids_keep, strict=True)])


def test_latents_are_of_the_mixture_of_normalised_pixels(image_folder):
    model = tiny_model(heads=2)
    batch = some_pairs(image_folder, model)[0]
    mask = batch.mask(model, 0.75, 1)
    assert mask.ids_keep.shape == (8, 4)
    pixels = (batch.images.float() / 255 - torch.tensor(model.mean)) / torch.tensor(model.std)
    mixed = 0.3 * pixels + 0.7 * pixels[batch.partner]
    with torch.no_grad():
        latent, encoded = (
            model.encode(seen(model.patchify(x.permute(0, 3, 1, 2)), mask.ids_keep), mask.ids_keep)
            for x in (mixed, pixels)
        )
        heads = torch.stack([model.decoder_embed1(latent), model.decoder_embed2(latent)])
    assert torch.allclose(mixture_latents(model, batch, mask, 0.3), heads, atol=1e-5)
    mae = tiny_model()
    mae.load_state_dict(model.state_dict(), strict=False)
    assert torch.allclose(clean_latents(mae, batch, mask, "encoder"), encoded, atol=1e-5)
    everything = batch.mask(model, 0, 1)
    assert everything.mask.sum() == 0 and everything.ids_keep.shape == (8, 16)


@pytest.fixture
def study(tmp_path):
    """Folder of a MAE (the teacher) and of two i-MAE runs."""
    mae = tiny_model()
    save_run(tmp_path / "mae", mae)
    save_run(tmp_path / "plain", tiny_model(heads=2))
    save_run(tmp_path / "distilled", tiny_model(heads=2), teacher="mae/checkpoint-last.pth")
    return tmp_path


def options(study, image_folder, **changes):
    path = "checkpoint-last.pth"
    return SeparabilityOptions(
        **{
            "checkpoint": study / "distilled" / path,
            "others": (study / "plain" / path, study / "mae" / path),
            "teacher": study / "mae" / path,
            "ffcv": None, "data_path": image_folder, "val": image_folder, "device": "cpu",
            "mix_ratios": (0.1, 0.4), "batch_size": 16, "num_workers": 0, "train_samples": 32,
            "val_samples": 16, **changes,
        }
    )  # fmt: skip


@pytest.fixture
def followed(monkeypatch):
    """Return the number of steps of each progress that is shown."""
    counts = collections.Counter()

    def tracked(items, name, unit):
        for item in items:
            counts[name, unit] += 1
            yield item

    monkeypatch.setattr(comparison, "tracked", tracked)
    return counts


def measured_on(study, images):
    """Return the images to measure on, their mask, and their clean latents."""
    teacher = load_frozen(study / "mae" / "checkpoint-last.pth", torch.device("cpu"))
    (batch,) = some_pairs(images, teacher, samples=16, batch_size=16)
    mask = batch.mask(teacher, 0.75, 1)
    return batch, mask, clean_latents(teacher, batch, mask)


def test_table_has_every_model_at_every_ratio(study, image_folder, capsys, followed, heard, caplog):
    run(options(study, image_folder))
    assert f"{image_folder}: the map is fitted on the images it is measured on" in caplog.text
    folder = study / "distilled" / "eval-separability"
    table = json.loads((folder / "results.json").read_text())["numbers"]["table"]
    assert [(row["model"], row["kind"], row["mix_ratio"]) for row in table] == [
        (name, kind, ratio)
        for name, kind in (
            ("distilled", "i-MAE, distilled"),
            ("plain", "i-MAE, not distilled"),
            ("mae", "MAE"),
        )
        for ratio in (0.1, 0.4)
    ]
    assert Image.open(folder / "separability.png").width > 300
    assert capsys.readouterr().out.count("| plain |") == 2
    assert followed["fitting", "fit"] == 6
    # The distances of some rows, from the latents themselves.
    batch, mask, clean = measured_on(study, image_folder)
    for place, name in ((0, "distilled"), (4, "mae")):
        model = load_frozen(study / name / "checkpoint-last.pth", torch.device("cpu"))
        for row, ratio in zip(table[place:], (0.1, 0.4), strict=False):
            mixed = mixture_latents(model, batch, mask, ratio)[0]
            direct = float((mixed - clean).square().mean())
            assert row["mse_before"] == pytest.approx(direct, rel=1e-4)
            assert row["rows_fitted"] == 32 * 5 and row["rows_measured"] == 16 * 5
    assert table[5]["mse_before"] < table[4]["mse_before"]  # more of the image is in the mixture
    for row in table[:4]:  # two untrained heads have different bases
        assert row["mse_after"] < row["mse_before"] > row["mse_after_trained"]


@undrawn()
def test_mixtures_of_equal_images_leave_no_distance(study, tmp_path):
    pixels = np.random.default_rng(0).integers(0, 255, (32, 32, 3), dtype=np.uint8)
    for label in "ab":
        (tmp_path / "same" / label).mkdir(parents=True)
        for number in range(4):
            Image.fromarray(pixels).save(tmp_path / "same" / label / f"{number}.png")
    same = tmp_path / "same"
    run(options(study, same, checkpoint=study / "mae" / "checkpoint-last.pth", others=()))
    content = json.loads((study / "mae" / "eval-separability" / "results.json").read_text())
    none = 1e-12 * float(measured_on(study, same)[2].square().mean())
    for row in content["numbers"]["table"]:  # a mixture of equal images is one up to rounding
        assert row["mse_before"] < none and row["mse_after_trained"] < none
        assert row["unexplained"] < 1e-6


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"mix_ratios": (0.6,)}, "--mix_ratios"),
        ({"teacher": "plain"}, "--teacher must be a plain MAE"),
        ({"teacher": "heads"}, "--teacher must be a plain MAE"),
        ({"teacher": "wide"}, r"another width in decoder space \(48\) than .*distilled.* \(32\)"),
        ({"teacher": "large"}, "image size"),
        ({"space": "encoder"}, "distilled.* has heads in decoder space.*use --space decoder, or"),
        ({"protocol": "paper"}, "has 48 images: --protocol paper takes 100"),
        ({"protocol": "paper", "batch_size": 33}, "--batch_size 33 leaves one of 100 images"),
    ],
)
def test_what_cannot_be_compared_is_said(study, image_folder, changes, words):
    save_run(study / "wide", tiny_model(decoder_embed_dim=48))
    save_run(study / "large", tiny_model(img_size=64))
    save_run(study / "heads", tiny_model(), objective="imae", disentangle=False)
    if "teacher" in changes:
        changes = {"teacher": study / changes["teacher"] / "checkpoint-last.pth"}
    with pytest.raises(ConfigError, match=words):
        run(options(study, image_folder, **changes))


def test_names_tell_checkpoints_apart(tmp_path):
    last = "checkpoint-last.pth"
    assert names_of([tmp_path / "a" / last, tmp_path / "b" / last]) == ["a", "b"]
    assert names_of([tmp_path / "x/a" / last, tmp_path / "y/a" / last]) == ["x/a", "y/a"]
    same = [tmp_path / "a" / "checkpoint-0.pth", tmp_path / "a" / last]
    assert names_of(same) == ["checkpoint-0", "checkpoint-last"]
    assert len(set(names_of([tmp_path / "a" / last] * 2))) == 2
