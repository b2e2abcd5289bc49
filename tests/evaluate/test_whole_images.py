"""Reconstruction where nothing is masked (hierarchical paper, section C.3): `--mask_ratios 0`."""

import json
import weakref

import pytest
import torch
from tiny import save_run, tiny_model
from toy_images import save_colours

from fastimae.evaluate.images import open_images
from fastimae.evaluate.mixing.mixtures import PairBatches
from fastimae.evaluate.mixing.reconstruction import reconstruct
from fastimae.evaluate.options.figures import MEASURED, ReconstructOptions
from fastimae.kernels.reference import patchify

pytest.importorskip("torchmetrics")
pytest.importorskip("piq")
from fastimae.evaluate.tasks import reconstruct as task
from fastimae.models import MaskedAutoencoder


class Identity(MaskedAutoencoder):
    """A model whose latents are the patches it sees, and whose predictions of these are exact."""

    def encode(self, patches, ids_keep, key=None):
        return torch.cat([torch.zeros_like(patches[:, :1]), patches], dim=1)

    def split(self, latent):
        return latent[None]

    def decode(self, head, mask, masked_only=False):
        padded = torch.cat([head[:, 1:], torch.zeros_like(head)], dim=1)
        return padded.gather(1, mask.ids_restore.long()[..., None].expand(-1, -1, head.shape[-1]))


def pairs_of(source, model, **changes):
    settings = {"samples": 8, "batch_size": 8, "workers": 0}
    return next(iter(PairBatches(open_images(source), model, **{**settings, **changes})))


def test_what_an_identity_makes_of_the_whole_image_is_the_image(image_folder):
    model = Identity(img_size=32, patch_size=8, embed_dim=16, depth=1, num_heads=2,
                     decoder_embed_dim=16, decoder_depth=1, decoder_num_heads=2)  # fmt: skip
    batch = pairs_of(image_folder, model)
    result = reconstruct(model, batch, 0)
    assert result.views.keys() == {"unmasked"}
    assert torch.equal(result.views["unmasked"]["image"], batch.images)
    assert torch.equal(result.masked, batch.images)
    # What is masked it cannot know.
    assert not torch.equal(reconstruct(model, batch, 0.5).views["whole"]["image"], batch.images)


def test_every_patch_passes_both_parts_and_no_mask_token_does(image_folder):
    """Against encoder and decoder written out, in float64; the mask token is not a number."""
    model = tiny_model()
    batch = pairs_of(image_folder, model)
    std, mean = (torch.tensor(v).double().repeat(64) for v in (model.std, model.mean))
    with torch.no_grad():
        model.mask_token.fill_(torch.nan)
        picture = reconstruct(model, batch, 0).views["unmasked"]["image"]
        exact = tiny_model().double()
        exact.load_state_dict(model.state_dict())
        x = (patchify(batch.images, 8).double() / 255 - mean) / std
        x = x.reshape(8, 16, 8, 8, 3).permute(0, 1, 4, 2, 3).flatten(0, 1)
        x = exact.patch_embed.proj(x).reshape(8, 16, -1) + exact.pos_embed[:, 1:]
        cls = (exact.cls_token + exact.pos_embed[:, :1]).expand(8, -1, -1)
        x = torch.cat([cls, x], dim=1)
        for block in exact.blocks:
            x = plain_block(block, x)
        x = exact.decoder_embed(exact.norm(x)) + exact.decoder_pos_embed
        for block in exact.decoder_blocks:
            x = plain_block(block, x)
        patches = exact.decoder_pred(exact.decoder_norm(x))[:, 1:]
    wanted = (255 * (patches * std + mean)).clamp(0, 255)
    assert (patchify(picture, 8) - wanted).abs().max() < 0.51


def plain_block(block, x):
    """Compute a ViT block: attention and MLP, each behind a norm and beside a residual."""
    y = block.norm1(x)
    qkv = block.attn.qkv(y).unflatten(-1, (3, block.attn.num_heads, -1)).permute(2, 0, 3, 1, 4)
    y = torch.nn.functional.scaled_dot_product_attention(*qkv).transpose(1, 2).flatten(2)
    x = x + block.attn.proj(y)
    return x + block.mlp.fc2(torch.nn.functional.gelu(block.mlp.fc1(block.norm2(x))))


def options(checkpoint, source, **changes):
    return ReconstructOptions(**{
        "checkpoint": checkpoint, "data_path": source, "device": "cpu", "num_workers": 0,
        "batch_size": 8, "mask_ratios": (0.0,), "mix_ratios": (0.3,), "pictures": 1, **changes,
    })  # fmt: skip


def numbers_of(folder):
    return json.loads((folder / "eval-reconstruct" / "results.json").read_text())["numbers"]


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    """75 images of 16 pixels: more than are measured at other ratios, and 8 * 9 + 3."""
    return save_colours(tmp_path_factory.mktemp("many") / "data", 25, size=16)


@pytest.mark.parametrize(
    ("heads", "batch_size", "measured"), [(1, 37, 75), (1, 1, 75), (2, 37, 74)]
)
def test_no_image_is_lost_unless_it_has_none_to_be_mixed_with(
    tmp_path, images, caplog, heads, batch_size, measured
):
    model = tiny_model(img_size=16, heads=heads)
    task.run(options(save_run(tmp_path, model), images, batch_size=batch_size))
    numbers = numbers_of(tmp_path)
    assert numbers["images"] == measured
    assert ("one of 75 images is left out" in caplog.text) == (measured < 75)
    assert {row["view"] for row in numbers["table"]} == {"unmasked"}
    assert len(numbers["table"]) == heads and not any(row["masked"] for row in numbers["table"])
    batches = PairBatches(open_images(images), model, samples=None, batch_size=batch_size,
                          workers=0, mixed=heads == 2)  # fmt: skip
    squares = [
        (result.views["unmasked"][branch].double() / 255 - result.truths[branch].double() / 255)
        .square().mean((1, 2, 3))
        for batch in batches
        for result in [reconstruct(model, batch, 0, 0.3 if heads == 2 else None)]
        for branch in [numbers["table"][0]["branch"]]
    ]  # fmt: skip
    errors = torch.cat(squares)
    assert len(errors) == measured
    assert numbers["table"][0]["mse"] == pytest.approx(float(errors.mean()), rel=1e-5)


def test_beside_other_ratios_each_has_the_images_that_it_has_alone(tmp_path, images):
    path = save_run(tmp_path, tiny_model(img_size=16))
    tables = {}
    for ratios in ((0.5,), (0.0, 0.5), (0.0,)):
        task.run(
            options(path, images, mask_ratios=ratios, output_dir=tmp_path / "eval-reconstruct")
        )
        tables[ratios] = numbers_of(tmp_path)["table"]
    assert tables[0.0, 0.5] == tables[0.0,] + tables[0.5,]
    assert [row["images"] for row in tables[0.0, 0.5]] == [75, MEASURED, MEASURED]


@pytest.mark.parametrize(("samples", "counts"), [(10, [10, 10, 10]), (0, [75, 75, 75])])
def test_samples_are_those_of_every_ratio(tmp_path, images, samples, counts):
    given = options(save_run(tmp_path, tiny_model(img_size=16)), images, samples=samples)
    given.mask_ratios = (0.0, 0.5, 0.5)  # twice the same is once
    task.run(given)
    numbers = numbers_of(tmp_path)
    assert [row["images"] for row in numbers["table"]] == counts
    assert numbers["images"] == counts[0]


def test_pictures_are_not_kept(tmp_path, images, monkeypatch):
    """Of all batches no more than one is in memory, and the first ones to draw."""
    batches, alive = [], []

    def watched(*args, **settings):
        batches.append(weakref.ref(args[1].images))
        result = reconstruct(*args, **settings)
        batches.append(weakref.ref(result.views["unmasked"]["image"]))
        alive.append(sum(ref() is not None for ref in batches))
        return result

    monkeypatch.setattr(task, "reconstruct", watched)
    task.run(options(save_run(tmp_path, tiny_model(img_size=16)), images))
    assert len(alive) == 10 and max(alive) <= 4
