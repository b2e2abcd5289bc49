"""CKA of masked and whole images: against Gram matrices, and blocks against timm's."""

import json

import numpy as np
import pytest
import torch
from figure_texts import texts_of
from tiny import save_run, tiny_model
from undrawn import undrawn

pytest.importorskip("timm")

from timm.models.vision_transformer import VisionTransformer

from fastimae.engine.checkpoint import load_checkpoint, save_checkpoint
from fastimae.evaluate.candidates import candidates_of
from fastimae.evaluate.figures.occlusion import block_tokens, compared, similarities
from fastimae.evaluate.figures.similarity import Similarity
from fastimae.evaluate.images import open_images
from fastimae.evaluate.mixing.mixtures import PairBatches, Pairs
from fastimae.evaluate.options.cka import CkaOptions
from fastimae.evaluate.tasks.cka import run, units_of
from fastimae.kernels import random_masking
from fastimae.models.forward_features import all_visible
from fastimae.settings import ConfigError


def cka(x, y, parts=1, **how):
    """Return the CKA of rows that come in so many parts."""
    sums = Similarity()
    for rows in zip(x.chunk(parts), y.chunk(parts), strict=True):
        sums.add(*rows)
    assert sums.rows == len(x)
    return sums.cka(**how)


def by_gram(x, y):
    """Return CKA by its definition: HSIC of centred Gram matrices (Kornblith, equation 3)."""
    n = len(x)
    centre = torch.eye(n, dtype=torch.float64) - 1 / n
    k, el = (centre @ rows @ rows.T @ centre for rows in (x, y))
    return ((k * el).sum() / ((k * k).sum() * (el * el).sum()).sqrt()).item()


def hsic_1(x, y):
    """Return HSIC_1 as Song et al. (2012) write it in equation 5."""
    n, one = len(x), torch.ones(len(x), 1, dtype=torch.float64)
    k, el = (rows @ rows.T for rows in (x, y))
    k, el = k - k.diag().diag(), el - el.diag().diag()
    middle = (one.T @ k @ one @ one.T @ el @ one) / ((n - 1) * (n - 2))
    last = 2 / (n - 2) * one.T @ k @ el @ one
    return (((k @ el).trace() + middle - last) / (n * (n - 3))).item()


def some_rows(n=40, shift=0.0):
    x = torch.randn(n, 7, dtype=torch.float64) + shift
    return x, torch.tanh(x[:, :5]) + 0.3 * torch.randn(n, 5, dtype=torch.float64) - shift


@pytest.mark.parametrize("shift", [0.0, 1e3])
def test_sums_give_what_gram_matrices_give(shift):
    x, y = some_rows(shift=shift)
    wanted = by_gram(x, y)
    assert 0.1 < wanted < 0.9
    for parts in (1, 7):
        assert cka(x, y, parts) == pytest.approx(wanted, abs=1e-10)
    x, y = some_rows()
    unbiased = hsic_1(x, y) / (hsic_1(x, x) * hsic_1(y, y)) ** 0.5
    for parts in (1, 7):  # of batches of any size, the first of them not the mean of all
        assert cka(x + shift, y - shift, parts, debiased=True) == pytest.approx(unbiased, abs=1e-9)
    assert abs(unbiased - by_gram(x, y)) > 0.01


@pytest.mark.parametrize("debiased", [False, True])
def test_cka_sees_neither_rotation_nor_scale_but_other_maps(debiased):
    x, y = some_rows()
    rotation = torch.linalg.qr(torch.randn(7, 7, dtype=torch.float64)).Q
    wanted = cka(x, y, debiased=debiased)
    assert cka(x, x, debiased=debiased) == pytest.approx(1, abs=1e-12)
    assert cka(y, x, debiased=debiased) == pytest.approx(wanted, abs=1e-12)
    assert cka(x @ rotation * 3 + 5, y, debiased=debiased) == pytest.approx(wanted, abs=1e-10)
    stretched = x * torch.linspace(0.1, 4, 7, dtype=torch.float64)
    assert abs(cka(stretched, y, debiased=debiased) - wanted) > 0.01
    assert cka(x, stretched, debiased=debiased) < 0.99


def test_unrelated_rows_are_unlike_only_without_the_bias():
    x, y = (torch.randn(60, 200, dtype=torch.float64) for _ in range(2))
    assert cka(x, y) > 0.7 and abs(cka(x, y, debiased=True)) < 0.1
    assert np.isnan(cka(torch.ones(9, 3), x[:9])) and np.isnan(Similarity().cka())
    with pytest.raises(ValueError, match="x has 9 rows, y has 8"):
        Similarity().add(x[:9], y[:8])


def pictures(count=6):
    return torch.randint(0, 256, (count, 32, 32, 3), dtype=torch.uint8)


@torch.no_grad()
def test_what_is_compared():
    model, images = tiny_model(patch_size=8), pictures()
    mask = random_masking(torch.arange(6), model.grid, 0.5)
    whole, masked = torch.randn(6, 17, 32), torch.randn(6, 9, 32)
    kept = torch.stack([own[1:][ids.long()] for own, ids in zip(whole, mask.ids_keep, strict=True)])
    for pool, (x, y) in {
        "cls": (masked[:, 0], whole[:, 0]),
        "avg": (masked[:, 1:].mean(1), whole[:, 1:].mean(1)),
        "common": (masked[:, 1:].mean(1), kept.mean(1)),
        "tokens": (masked[:, 1:].reshape(48, 32), kept.reshape(48, 32)),
    }.items():
        found = compared(masked, whole, mask, pool)
        assert torch.equal(found[0], x) and torch.equal(found[1], y)
    # The last block's sum, normalised, is what the encoder returns.
    *_, last = block_tokens(model, images, mask)
    encoded = model.encode(*model.visible_patches(images, mask), mask.ids_keep)
    assert torch.allclose(model.norm(last), encoded, atol=1e-6)


@undrawn()
@torch.no_grad()
def test_mask_tokens_are_in_place_of_masked_patches(study, image_folder):
    """As if the patches' embeddings were replaced; and none are where nothing is masked."""
    path, token = study / "mae" / "checkpoint-last.pth", torch.randn(1, 1, 32)
    with pytest.raises(ConfigError, match="--mask_tokens: no encoder"):
        run(options(study, image_folder, mask_tokens=True))
    dropped = results_of(study, image_folder)["numbers"]["table"]
    content = load_checkpoint(path)
    save_checkpoint(path, {**content, "objective": {"mask_token.weight": token}})
    (candidate,) = candidates_of(options(study, image_folder), torch.device("cpu"))
    model, images = candidate.model, pictures()
    mask, whole = random_masking(torch.arange(6), model.grid, 0.5), all_visible(model, images)
    embedded = model.patch_embed(*model.visible_patches(images, whole))
    masked = torch.where(mask.mask[..., None] > 0, token, embedded)
    x = torch.cat([model.cls_token.expand(6, -1, -1), masked], 1) + model.pos_embed
    for block, tokens in zip(model.blocks, block_tokens(model, images, mask, token), strict=True):
        x = x + block.attn(block.norm1(x))
        x = x + block.mlp(block.norm2(x))
        assert torch.allclose(tokens, x, atol=1e-5)
    kept = torch.stack([own[1:][ids.long()] for own, ids in zip(x, mask.ids_keep, strict=True)])
    assert torch.equal(compared(x, x, mask, "tokens")[0], kept.flatten(0, 1))
    assert torch.equal(compared(x, x, mask, "avg")[0], x[:, 1:].mean(1))
    table = results_of(study, image_folder, mask_tokens=True)["numbers"]["table"]
    alike = [one["cka"] == pytest.approx(two["cka"], abs=1e-9)
             for one, two in zip(table, dropped, strict=True)]  # fmt: skip
    assert alike == [row["mask_ratio"] == 0 for row in table]


def save_layout(folder, vit, layout):
    """Save a timm model as one of the programs does that the occlusion paper compares."""
    weights, path = vit.state_dict(), folder / layout / "model.pth"
    path.parent.mkdir(parents=True)

    def named(prefix, values=weights):
        return {prefix + name: value for name, value in values.items()}

    other = {name: torch.randn_like(value) for name, value in weights.items()}
    head = {"weight": torch.randn(3, weights["cls_token"].shape[-1])}
    content = {
        "timm": weights,
        "dino": {
            "teacher": named("backbone.", other) | named("head.mlp.0.", head),
            "student": named("module.backbone.") | named("module.head.mlp.0.", head),
        },
        "dino teacher": {"teacher": named("backbone.") | named("head.mlp.0.", head)},
        "dino backbone": named("backbone."),
        "moco": {
            "arch": "vit_base",
            "state_dict": named("module.base_encoder.")
            | named("module.base_encoder.head.0.", head)
            | named("module.momentum_encoder.", other)
            | named("module.predictor.0.", head),
        },
    }[layout]
    torch.save(content, path)
    return path


LAYOUTS = ("timm", "dino", "dino teacher", "dino backbone", "moco")


@pytest.mark.parametrize("global_pool", ["token", "avg"])
@torch.no_grad()
def test_blocks_of_other_programs_are_timms(tmp_path, global_pool):
    """In --checkpoint and in --others, with positions of their own, and with fc_norm."""
    vit = VisionTransformer(
        img_size=32, patch_size=8, embed_dim=192, depth=3, num_heads=3, num_classes=0,
        global_pool=global_pool, fc_norm=global_pool == "avg",
    ).eval()  # fmt: skip
    torch.nn.init.normal_(vit.pos_embed)
    assert hasattr(vit.fc_norm, "weight") == (global_pool == "avg")
    first, *others = [save_layout(tmp_path, vit, layout) for layout in LAYOUTS]
    candidates = candidates_of(
        CkaOptions(checkpoint=first, others=tuple(others)), torch.device("cpu"), encoder_only=True
    )
    images = pictures(2)
    model = candidates[0].model
    mean, std = (torch.tensor(values) for values in (model.mean, model.std))
    pixels = ((images.float() / 255 - mean) / std).permute(0, 3, 1, 2)
    wanted = vit.forward_intermediates(
        pixels, return_prefix_tokens=True, norm=False, output_fmt="NLC", intermediates_only=True
    )
    for candidate in candidates:
        found = list(block_tokens(candidate.model, images, all_visible(candidate.model, images)))
        for tokens, (patches, first_token) in zip(found, wanted, strict=True):
            assert torch.allclose(tokens[:, 1:], patches, atol=1e-5)
            assert torch.allclose(tokens[:, :1], first_token, atol=1e-5)


@pytest.fixture
def study(tmp_path):
    save_run(tmp_path / "mae", tiny_model(), mask_ratio=0.75)
    save_run(tmp_path / "deep", tiny_model(depth=3, patch_size=16), mask_ratio=0.75)
    return tmp_path


def options(study, image_folder, **changes):
    return CkaOptions(**{
        "checkpoint": study / "mae" / "checkpoint-last.pth", "data_path": image_folder,
        "device": "cpu", "num_workers": 0, "batch_size": 16, "output_dir": study / "cka",
        "mask_ratios": (0.0, 0.25, 0.75), **changes,
    })  # fmt: skip


def results_of(study, image_folder, **changes):
    run(options(study, image_folder, **changes))
    return json.loads((study / "cka" / "results.json").read_text())


def test_table_means_and_figures(study, image_folder, capsys, drawn_figures, heard, caplog):
    deep = study / "deep" / "checkpoint-last.pth"
    results = results_of(
        study, image_folder, others=(deep,), mask_patch_size=16, random_baseline=True
    )
    numbers = results["numbers"]
    assert numbers["images"] == 48 and results["pictures"] == ["cka.png", "cka_means.png"]
    table = {(row["model"], row["mask_ratio"], row["layer"]): row for row in numbers["table"]}
    assert len(table) == 3 * (2 + 3 + 2)
    for (_, ratio, _), row in table.items():
        assert row["mask_patch_size"] == (16 if ratio else None) and row["masked"] == ratio
        if ratio == 0:
            assert row["cka"] == pytest.approx(1, abs=1e-9)
        else:
            assert row["cka"] < table[row["model"], 0.0, row["layer"]]["cka"] - 1e-4
    assert table["random weights", 0.75, 0]["cka"] != table["mae", 0.75, 0]["cka"]
    for row in numbers["means"]:
        key = row["model"], row["mask_ratio"]
        own = [each["cka"] for place, each in table.items() if place[:2] == key]
        assert row["cka"] == pytest.approx(np.mean(own))
    own = [row["cka"] for row in table.values() if row["model"] == "mae"]
    assert numbers["mean_cka"] == pytest.approx(np.mean(own))
    out = capsys.readouterr().out
    assert "| model | layer | 0 | 0.25 | 0.75 |" in out and out.count("| deep | ") == 4
    maps, means = ([text.get_text() for text in texts_of(figure)] for figure in drawn_figures)
    titles = [text.split("\n") for text in maps if "\n" in text]
    assert [title[0] for title in titles] == ["mae", "deep", "random weights"]
    assert [title[-1] for title in titles] == ["patch 8 px", "patch 16 px", "patch 8 px"]
    value = f"{table['deep', 0.75, 2]['cka']:.3f}".removeprefix("0")
    assert value in maps and maps.count("mean") == 3 and "masking ratio" in maps
    assert "CKA of masked and whole images: means of the patches, 48 images" in maps
    assert {"mae", "deep", "random weights"} <= set(means)
    assert "was trained with" not in caplog.text  # asked for
    assert "48 images are no more than its width" not in caplog.text


@undrawn()
def test_numbers_are_of_the_images_and_masks(study, image_folder):
    """One number from the encoder itself; with other batches, one more model, another seed."""
    for pool in ("avg", "tokens"):
        changes = {"pool": pool, "mask_ratios": (0.5,), "debiased": True}
        row = results_of(study, image_folder, **changes)["numbers"]["table"][1]
        (candidate,) = candidates_of(options(study, image_folder), torch.device("cpu"))
        model = candidate.model
        batches = PairBatches(
            open_images(image_folder), model, samples=5000, batch_size=16, workers=0, mixed=False
        )
        xs, ys = [], []
        for batch in batches:
            mask = random_masking(batch.key, model.grid, 0.5)
            with torch.no_grad():
                (patches,) = model.visible_patches(batch.images, mask)
                x = model.embed(patches, mask.ids_keep)
                for block in model.blocks:  # the two halves of each, without `block_outputs`
                    x = x + block.attn(block.norm1(x))
                    x = x + block.mlp(block.norm2(x))
            y = model.forward_features(batch.images, layers=[1], norm=False)[0]
            pair = compared(x, y, mask, pool)
            xs, ys = [*xs, pair[0].double()], [*ys, pair[1].double()]
        x, y = torch.cat(xs), torch.cat(ys)
        wanted = hsic_1(x, y) / (hsic_1(x, x) * hsic_1(y, y)) ** 0.5
        assert row["layer"] == 1 and row["cka"] == pytest.approx(wanted, abs=1e-5)
    twice = results_of(study, image_folder, others=(study / "mae" / "checkpoint-last.pth",),
                       **changes)  # fmt: skip
    assert [each["cka"] for each in twice["numbers"]["table"]][1::2] == [row["cka"]] * 2
    other = results_of(study, image_folder, seed=1, **changes)["numbers"]["table"][1]
    assert other["cka"] != row["cka"]


def test_all_models_see_the_same_squares(study, image_folder):
    given = {"others": (study / "deep" / "checkpoint-last.pth",)}
    both = candidates_of(options(study, image_folder, **given), torch.device("cpu"))
    assert units_of(both, options(study, image_folder, mask_patch_size=16)) == [2, 1]
    key, seen = torch.arange(9), []
    for candidate, unit in zip(both, (2, 1), strict=True):
        mask = random_masking(key, candidate.model.grid, 0.75, unit).mask
        side = candidate.model.patch_size
        seen.append(mask.unflatten(1, candidate.model.grid).repeat_interleave(side, 1)
                    .repeat_interleave(side, 2))  # fmt: skip
    assert torch.equal(*seen)
    with pytest.raises(ConfigError, match=r"deep.*--mask_patch_size 8"):
        units_of(both, options(study, image_folder))


@undrawn()
def test_a_warning_says_what_is_not_comparable(study, image_folder, heard, caplog):
    path = save_run(study / "units", tiny_model(), mask_patch_size=16)
    run(options(study, image_folder, others=(path,), samples=20))
    assert "units/checkpoint-last.pth was trained with --mask_patch_size 16" in caplog.text
    assert "20 images are no more than its width of 32" in caplog.text
    caplog.clear()
    run(options(study, image_folder, samples=20, debiased=True))
    assert "no more than" not in caplog.text


def test_errors_name_the_flag(study, image_folder):
    for changes, message in (
        ({"samples": 3}, "--samples 3: CKA takes 4 images or more"),
        ({"mask_ratios": ()}, "--mask_ratios needs a value"),
        ({"mask_ratios": (0.99,)}, "--mask_ratios 0.99 leaves all or none"),
        ({"mask_patch_size": 12}, "--mask_patch_size 12"),
    ):
        with pytest.raises(ConfigError, match=message):
            run(options(study, image_folder, **changes))
    save_run(study / "large", tiny_model(img_size=64))
    large = (study / "large" / "checkpoint-last.pth",)
    with pytest.raises(ConfigError, match=r"large.* has another image size"):
        run(options(study, image_folder, others=large))


def test_no_more_than_a_block_is_kept():
    """The passes over a batch advance together: tokens are not held for all blocks at once."""
    model, order = tiny_model(depth=3), []
    for number, block in enumerate(model.blocks):
        block.register_forward_hook(lambda *_, number=number: order.append(number))
    key = torch.arange(6)
    batch = Pairs(images=pictures(), partner=key, labels=key, key=key)
    similarities(model, [batch], [0.5, 0.75], 1, "tokens")
    assert order == sorted(order) and len(order) == 9
