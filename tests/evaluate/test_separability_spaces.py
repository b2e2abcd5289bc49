"""M_ls as in the i-MAE paper's equation 6 and table 2, against float64 maths written out here."""

import json

import numpy as np
import oracle
import pytest
import torch
from PIL import Image
from tiny import HEADS, save_run, tiny_model
from undrawn import undrawn

from fastimae.evaluate.candidates import Candidate
from fastimae.evaluate.command import options_of
from fastimae.evaluate.images import open_images
from fastimae.evaluate.mixing.mixtures import PairBatches, own_space
from fastimae.evaluate.mixing.spaces import check_space
from fastimae.evaluate.tasks.separability import SeparabilityOptions, run
from fastimae.settings import ConfigError

WIDE, NARROW = 32, 48
"""Widths of encoder and decoder, so that spaces cannot be mistaken for each other."""
KINDS = {
    "imae": "i-MAE, distilled",
    "alone": "i-MAE, not distilled",
    "noheads": "i-MAE without heads, not distilled",
    "mae": "MAE",
}


def model(**changes):
    return tiny_model(decoder_embed_dim=NARROW, depth=1, **changes)


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """Checkpoints of the four rows, an i-MAE in decoder space, and 2 x 104 images."""
    root = tmp_path_factory.mktemp("separability")
    torch.manual_seed(1)
    rng = np.random.default_rng(1)
    teacher = model()
    save_run(root / "mae", teacher)
    save_run(root / "imae", model(heads=2, head_space="encoder"), teacher="mae.pth")
    save_run(root / "alone", model(heads=2, head_space="encoder"))
    save_run(root / "noheads", model(), objective="imae", disentangle=False)
    save_run(root / "released", model(heads=2), teacher="mae.pth")
    for split in ("train", "val"):
        for number in range(104):
            folder = root / "data" / split / "ab"[number % 2]
            folder.mkdir(parents=True, exist_ok=True)
            small = rng.integers(0, 255, (4, 4, 3), dtype=np.uint8)
            Image.fromarray(small).resize((32, 32), Image.BICUBIC).save(folder / f"{number}.png")
    return root


def last(place, *names):
    return tuple(place / name / "checkpoint-last.pth" for name in names)


@undrawn()
def measured(place, out, *rows, **changes):
    """Run the task; return its rows by model, at one mixing ratio."""
    checkpoint, *others = last(place, *rows)
    (teacher,) = last(place, "mae")
    settings = {
        "checkpoint": checkpoint, "others": tuple(others), "teacher": teacher, "device": "cpu",
        "data_path": place / "data" / "train", "val": place / "data" / "val", "num_workers": 0,
        "output_dir": out, **changes,
    }  # fmt: skip
    if changes.get("protocol") != "paper":
        settings |= {"mix_ratios": (0.3,), "train_samples": 60, "val_samples": 40}
    run(SeparabilityOptions(**settings))
    numbers = json.loads((out / "results.json").read_text())["numbers"]
    return {row["model"]: row for row in numbers["table"]}, numbers


def states(place, *names):
    contents = {name: torch.load(*last(place, name), weights_only=True) for name in names}
    return {name: oracle.float64(content["model"]) for name, content in contents.items()}


@torch.no_grad()
def latents(place, split, samples, state, teacher, space):
    """Equation 6's h_s and f(I_s) of each token, in float64: [tokens, width] each."""
    images = open_images(place / "data" / split)
    mae = model()
    (batch,) = PairBatches(images, mae, samples=samples, batch_size=256, workers=0)
    visible = batch.mask(mae, 0.75, 1).ids_keep.tolist()
    mixed, clean = [], []
    for image, other, ids in zip(batch.images, batch.images[batch.partner], visible, strict=True):
        own, partner = (oracle.normalised(each, mae.mean, mae.std) for each in (image, other))
        patches = oracle.patches_of(0.3 * own + 0.7 * partner, 8)
        out = oracle.encode(patches, ids, state, HEADS)
        if "decoder_embed1.weight" in state:
            out = oracle.linear(out, state, "decoder_embed1")
        target = oracle.encode(oracle.patches_of(own, 8), ids, teacher, HEADS)
        if space == "decoder":
            target = oracle.linear(target, teacher, "decoder_embed")
            # Heads in decoder space have none of it.
            if "decoder_embed.weight" in state:
                out = oracle.linear(out, state, "decoder_embed")
        mixed.append(out)
        clean.append(target)
    return torch.stack(mixed), torch.stack(clean)


def mse(x, y):
    return float(((x - y) ** 2).mean())


def least_squares(x, y):
    """Numpy's affine map of all tokens."""
    ones = np.ones((len(x), 1))
    table = np.linalg.lstsq(np.hstack([x, ones]), y.numpy(), rcond=None)[0]
    return lambda new: torch.from_numpy(np.hstack([new, np.ones((len(new), 1))]) @ table)


@pytest.mark.parametrize("space", ["encoder", "decoder"])
def test_all_rows_of_a_table_have_the_same_targets(place, tmp_path, space):
    """Each row against equation 6: no row is in another space than the table says."""
    table, numbers = measured(place, tmp_path, *KINDS, space=space)
    assert {name: row["kind"] for name, row in table.items()} == KINDS
    assert {row["measured"] for row in table.values()} == {f"{space} space, held out"}
    assert f"in {space} space (width {WIDE if space == 'encoder' else NARROW})" in numbers["note"]
    of = states(place, *KINDS)
    spreads = set()
    for name, row in table.items():
        models = of[name], of["mae"], space
        fit_x, fit_y = (rows.flatten(0, 1) for rows in latents(place, "train", 60, *models))
        x, y = (rows.flatten(0, 1) for rows in latents(place, "val", 40, *models))
        assert x.shape[-1] == (WIDE if space == "encoder" else NARROW)
        assert row["mse_before"] == pytest.approx(mse(x, y), rel=1e-3), name
        after = mse(least_squares(fit_x, fit_y)(x), y)
        assert row["mse_after"] == pytest.approx(after, rel=0.02), name
        assert (row["rows_fitted"], row["rows_measured"]) == (60 * 5, 40 * 5)
        spreads.add(round(row["mse_after"] / row["unexplained"], 9))
    assert len(spreads) == 1  # of the targets


@pytest.mark.parametrize("tokens", ["all", "patches"])
def test_the_papers_protocol(place, tmp_path, tokens, capsys):
    """100 images at 0.3; before and after on them, after on 100 others; MSE per element."""
    table, numbers = measured(place, tmp_path, "imae", "mae", protocol="paper", tokens=tokens,
                              regression_epochs=3000, regression_lr=0.01)  # fmt: skip
    of, first = states(place, "imae", "mae"), 0 if tokens == "all" else 1
    said = "encoder space, paper's protocol" + ", patches only" * first
    for name, row in table.items():
        pairs = {
            split: [rows[:, first:].flatten(0, 1) for rows in
                    latents(place, split, 100, of[name], of["mae"], "encoder")]
            for split in ("train", "val")
        }  # fmt: skip
        best = least_squares(*pairs["train"])
        closed = {split: mse(best(x), y) for split, (x, y) in pairs.items()}
        assert (row["mix_ratio"], row["measured"]) == (0.3, said)
        assert row["rows_fitted"] == row["rows_measured"] == 100 * (5 - first)
        assert row["mse_before"] == pytest.approx(mse(*pairs["train"]), rel=1e-3)
        assert row["mse_before_held_out"] == pytest.approx(mse(*pairs["val"]), rel=1e-3)
        assert row["mse_closed_form"] == pytest.approx(closed["train"], rel=1e-2)
        # Training approaches the closed form from above on its own images, and only there.
        assert closed["train"] - 1e-9 <= row["mse_after"] < 1.05 * closed["train"]
        assert row["mse_after_held_out"] == pytest.approx(closed["val"], rel=0.1)
        assert row["mse_after_held_out"] > row["mse_after"]
    printed = capsys.readouterr().out
    assert numbers["note"] in printed and "| mse_after | mse_after_held_out |" in printed
    assert "3000 epochs" in numbers["note"]


def test_without_space_it_is_that_of_the_first_heads(place, tmp_path):
    (_, encoder), (_, decoder) = (
        measured(place, tmp_path / name, name, "mae") for name in ("alone", "released")
    )
    assert (encoder["space"], decoder["space"]) == ("encoder", "decoder")
    with pytest.raises(ConfigError, match=r"released.* has heads in decoder space"):
        measured(place, tmp_path / "both", "imae", "released")


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        ("--protocol paper --train_samples 5", "--train_samples has no effect with --protocol pap"),
        ("--protocol paper --mix_ratios 0.2", "--mix_ratios has no effect with --protocol paper"),
        ("--protocol paper --steps 5", "--steps has no effect with --protocol paper"),
        ("--regression_epochs 5", "--regression_epochs has no effect without --protocol paper"),
        ("--regression_lr 5", "--regression_lr has no effect without --protocol paper"),
    ],
)
def test_every_flag_has_an_effect_or_is_refused(flags, said):
    with pytest.raises(ConfigError, match=said):
        options_of("separability", ["--checkpoint", "a", "--teacher", "b", *flags.split()])


def test_weighted_feature_maps_have_no_decoder_space():
    sums = model(decoder_attention="cross", weighted_feature_maps=True)
    candidate = Candidate(name="sums", path="sums.pth", model=sums, args={})
    assert own_space(sums) == "encoder" and own_space(model()) == "decoder"
    teacher = model()
    teacher.args = sums.args = {}
    check_space([candidate], teacher, "encoder")
    with pytest.raises(ConfigError, match=r"sums.pth has weighted feature maps.*--space encoder"):
        check_space([candidate], teacher, "decoder")
    with pytest.raises(ConfigError, match="--teacher has weighted feature maps"):
        check_space([], sums, "decoder")
