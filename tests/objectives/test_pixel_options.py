"""Options of the pixels: what the model sees, what its targets are, and that both follow keys."""

import dataclasses

import numpy as np
import oracle
import pytest
import torch
from scipy.stats import beta
from torchvision.transforms.functional import gaussian_blur

from fastimae.arguments import parse_training
from fastimae.build import build_objective
from fastimae.config import TrainConfig, updated
from fastimae.kernels import random_masking
from fastimae.kernels.color_jitter import color_jitter, jitter_factors
from fastimae.loaders.order.philox import DrawStream, philox
from fastimae.loaders.order.sampler import Sampler
from fastimae.models import create_model
from fastimae.models.flops import training_flops
from fastimae.objectives import IMAE, MAE, Objective
from fastimae.objectives.blur import SIGMA, blur, blur_sigma, radius_of
from fastimae.objectives.cutmix import CutMix
from fastimae.objectives.pixels import Pixels
from fastimae.objectives.settings import MaskSettings, PixelSettings
from fastimae.settings import ConfigError

SIZES = {
    "embed_dim": 16, "depth": 2, "num_heads": 2,
    "decoder_embed_dim": 12, "decoder_depth": 2, "decoder_num_heads": 3,
}  # fmt: skip
ALL = PixelSettings(cutmix=1.0, color_jitter=0.4, blur=0.5)
VISIBLE = PixelSettings(color_jitter=0.4, color_jitter_on="visible")


def model(**overrides):
    return create_model("mae_vit_tiny_patch4", **{"img_size": (12, 16), **SIZES, **overrides})


@dataclasses.dataclass(kw_only=True)
class OwnSettings(PixelSettings, MaskSettings):
    """Of an objective that takes the options."""


class Own(Objective):
    """A user's objective that takes the options."""

    Settings = OwnSettings

    def __init__(self, student, settings):
        super().__init__()
        self.student, self.pixels = student, Pixels(student, settings)

    @classmethod
    def build(cls, settings, models):
        return cls(models.student(), settings)

    def forward(self, batch):
        return {"loss": self.pixels(batch).images.double().mean()}


@pytest.fixture
def batch(make_batch):
    return make_batch(6, (12, 16))


def rows_of(batch, rows):
    """Return the micro-batch of some rows, whose partners are among them."""
    values = {field.name: getattr(batch, field.name) for field in dataclasses.fields(batch)}
    step_key = values.pop("step_key")
    cut = {name: value[rows] for name, value in values.items()}
    cut["partner"] = cut["partner"] - rows.start
    return dataclasses.replace(batch, **cut, step_key=step_key)


@pytest.mark.parametrize("alpha", [1.0, 0.3])
def test_boxes_are_those_of_the_paper(alpha):
    """Equations of CutMix, section 3.2, with whole pixels as its code has them."""
    key, size = torch.randint(-(2**62), 2**62, (500,)), (40, 224)
    off = 0
    for k, box in zip(key.tolist(), CutMix(alpha).boxes(key, *size).tolist(), strict=True):
        words = philox(k, np.array([0, 0, 0, DrawStream.CUTMIX])).astype(np.float64) / 2**32
        side = np.sqrt(1 - beta.ppf(words[0], alpha, alpha))
        expected = []
        for centre, length in zip(words[1:3], size, strict=True):
            half, middle = int(length * side) // 2, int(centre * length)
            expected += [max(middle - half, 0), min(middle + half, length)]
        off += np.abs(np.subtract(box, expected)).max() > 0
    assert off <= (5 if alpha < 1 else 0)  # between quantiles, the table's lambda is approximate


def test_the_area_of_boxes_is_that_of_uniform_lambda_and_centres():
    """A side of r, cut off at the border, is r - r^2 / 4 on average; r^2 is uniform in 0..1."""
    top, bottom, left, right = CutMix(1.0).boxes(torch.arange(20_000), 2000, 2000).unbind(1)
    area = ((bottom - top) * (right - left)).double() / 2000**2
    assert abs(area.mean() - (1 / 2 - 2 / 5 / 2 + 1 / 3 / 16)) < 4 * area.std() / 20_000**0.5


def test_a_box_is_the_partners_and_the_rest_the_image(batch):
    cutmix = CutMix(1.0)
    got = cutmix(batch.images, batch.partner, batch.key)
    changed = 0
    for i, box in enumerate(cutmix.boxes(batch.key, 12, 16).tolist()):
        expected = batch.images[i].clone()
        inside = slice(*box[:2]), slice(*box[2:])
        expected[inside] = batch.images[batch.partner[i]][inside]
        assert torch.equal(got[i], expected)
        changed += not torch.equal(expected, batch.images[i])
    assert changed > 1


@pytest.mark.parametrize("size", [(224, 224), (32, 48), (3, 2)])
def test_blur_is_torchvisions(size):
    images = torch.randint(0, 256, (6, *size, 3), dtype=torch.uint8)
    sigma = torch.tensor([0.1, 0.4, 1.0, 2.0, 0.0, 0.7])
    with torch.autocast("cpu", torch.bfloat16):  # as fp16 runs compute: not the blur
        got = blur(images, sigma)
    taps = 2 * radius_of(*size) + 1
    assert size[0] < 224 or taps == 23  # of SimCLR, a tenth of the image
    for image, blurred, width in zip(images, got, sigma.tolist(), strict=True):
        if not width:
            assert torch.equal(blurred, image)
            continue
        expected = gaussian_blur(image.permute(2, 0, 1), [taps, taps], [width, width])
        difference = (blurred.int() - expected.permute(1, 2, 0).int()).abs()
        assert difference.max() <= 1 and (difference > 0).float().mean() < 1e-3  # rounding of .5


def test_widths_of_blurs_are_uniform_where_there_is_one():
    sigma = blur_sigma(torch.arange(20_000), 0.25).double()
    width = sigma[sigma > 0]
    assert abs(len(width) / 20_000 - 0.25) < 0.01
    assert SIGMA[0] <= width.min() and width.max() <= SIGMA[1]
    assert abs(width.mean() - sum(SIGMA) / 2) < 0.03
    assert not blur_sigma(torch.arange(100), 0.0).any() and blur_sigma(torch.arange(100), 1.0).all()


def test_whole_images_are_changed_in_this_order_targets_included(batch):
    """As a MAE on images that were changed before."""
    images = CutMix(1.0)(batch.images, batch.partner, batch.key)
    images = color_jitter(images, jitter_factors(batch.key, 0.4))
    images = blur(images, blur_sigma(batch.key, 0.5))
    assert not torch.equal(images, batch.images)
    student, changed = model(), dataclasses.replace(batch, images=images)
    assert torch.equal(MAE(student, pixels=ALL)(batch)["loss"], MAE(student)(changed)["loss"])
    shown = MAE(student, pixels=ALL).reconstruct(batch)
    for title, picture in MAE(student).reconstruct(changed).items():
        assert torch.equal(shown[title], picture), title


@pytest.mark.parametrize("norm_pix", [False, True])
def test_visible_patches_are_changed_alone(batch, norm_pix):
    """Loss and gradients against float64: changed patches go in, the image's own are compared."""
    student = model(norm_pix_loss=norm_pix)
    objective = MAE(student, pixels=VISIBLE, mask_ratio=0.6)
    assert torch.equal(objective.pixels(batch).images, batch.images)
    loss, mask = objective(batch)["loss"], objective.draw_mask(batch.key)
    loss.backward()
    seen = student.visible_patches(batch.images, mask, jitter=jitter_factors(batch.key, 0.4))[0]
    assert not torch.equal(seen, student.visible_patches(batch.images, mask)[0])
    check(loss, batch, mask.ids_keep.tolist(), student, seen.double(), masked=True)


@pytest.mark.parametrize("norm_pix", [False, True])
def test_without_a_mask_the_loss_is_that_of_all_patches(batch, norm_pix):
    student = model(norm_pix_loss=norm_pix)
    objective = MAE(student, mask_ratio=0)
    loss = objective(batch)["loss"]
    loss.backward()
    every = [list(range(12))] * 6
    check(loss, batch, every, student, None, masked=False)
    assert not student.mask_token.grad.any()
    assert objective.train_flops() == training_flops(student, 12)
    pictures = objective.reconstruct(batch)
    assert torch.equal(pictures["masked"], pictures["input"])
    assert not torch.equal(pictures["reconstruction"], pictures["input"])
    assert "Nothing is masked" in objective.picture_note


def check(loss, batch, visible, student, seen, *, masked):
    """Compare a loss and its gradients with float64. seen: patches that the encoder gets instead of
    the image's own. masked: whether only masked patches count."""
    state, losses = oracle.float64(student.state_dict()), []
    for i, (image, ids) in enumerate(zip(batch.images, visible, strict=True)):
        patches = oracle.patches_of(oracle.normalised(image, student.mean, student.std), 4)
        given = list(patches)
        for number, j in enumerate(ids if seen is not None else ()):
            given[j] = seen[i, number]
        latent = oracle.linear(oracle.encode(given, ids, state, 2), state, "decoder_embed")
        pred = oracle.decode(latent, ids, len(patches), state, 3)
        hidden = ids if masked else ()
        losses.append(oracle.pixel_loss(pred, patches, hidden, student.norm_pix_loss))
    expected = sum(losses) / len(losses)
    expected.backward()
    assert loss.item() == pytest.approx(expected.item(), rel=1e-6)
    for name, parameter in student.named_parameters():
        if parameter.requires_grad and (masked or name != "mask_token"):
            torch.testing.assert_close(
                parameter.grad.double(), state[name].grad, rtol=1e-5, atol=1e-6, msg=name
            )


def test_pictures_show_what_the_model_sees(batch):
    student = model()
    pictures = MAE(student, pixels=VISIBLE, mask_ratio=0.5).reconstruct(batch)
    plain = MAE(student, mask_ratio=0.5).reconstruct(batch)
    assert torch.equal(pictures["input"], plain["input"])
    hidden = plain["masked"] != plain["input"]
    assert (pictures["masked"][hidden.all(-1)] == 128).all()
    assert not torch.equal(pictures["masked"], plain["masked"])
    strength = dataclasses.replace(VISIBLE, color_jitter=1e-9)  # only grays
    grays = jitter_factors(batch.key, 1e-9)[:, 5] > 0
    shown = MAE(student, pixels=strength, mask_ratio=0.5).reconstruct(batch)["masked"]
    assert torch.equal(shown[~grays], plain["masked"][~grays])


@pytest.mark.parametrize("settings", [ALL, VISIBLE])
def test_pixels_depend_on_keys_and_partners_alone(batch, settings):
    """Not on the micro-batch or rank that a group of samples is in."""
    batch.partner = torch.tensor([1, 2, 0, 4, 5, 3])
    student = model()
    pixels = Pixels(student, settings)

    def seen(batch, view):
        mask = random_masking(batch.key, student.grid, 0.5)
        return pixels.visible_patches(student, pixels(batch), mask, view=view)

    whole, view = pixels(batch).images, seen(batch, 1)
    assert torch.equal(view, seen(batch, 0)) == (settings is ALL)
    for rows in (slice(0, 3), slice(3, 6)):
        part = rows_of(batch, rows)
        assert torch.equal(pixels(part).images, whole[rows])
        assert torch.equal(seen(part, 1), view[rows])


def test_cutmix_pairs_in_groups_however_a_step_is_divided():
    def pairs(batch_size, ranks):
        flags = {"cutmix": 1.0, "mix_group": 4, "synthetic": True, "batch_size": batch_size}
        config = updated(TrainConfig(), flags, str)
        config.check()
        found = {}
        for rank in range(ranks):
            plan = Sampler(np.zeros(64), config.loader(), rank=rank, world_size=ranks).step(0, 1)
            found |= dict(zip(plan.index.tolist(), plan.index[plan.partner].tolist(), strict=True))
        return found

    assert pairs(16, 1) == pairs(8, 2) == pairs(4, 4) and len(pairs(16, 1)) == 16
    assert all(image != other for image, other in pairs(16, 1).items())


def test_without_cutmix_the_loader_pairs_as_before():
    assert updated(TrainConfig(), {"batch_size": 48}, str).loader().mix_group == 0
    assert updated(TrainConfig(), {"cutmix": 0.5}, str).loader().mix_group == 32


def test_ones_own_objective_takes_the_options_and_another_refuses_them(batch):
    flags = "--cutmix 1 --mix_group 2 --batch_size 6 --device cpu --model mae_vit_nano_patch8"
    words = f"--synthetic --input_size 16 {flags} --objective".split()
    config = parse_training("fastimae-train", [*words, f"{__name__}:Own"])
    assert config.loader().mix_group == 2
    got = build_objective(config)(batch)["loss"]
    pasted = CutMix(1.0)(batch.images, batch.partner, batch.key)
    assert got == pasted.double().mean() != batch.images.double().mean()
    with pytest.raises(ConfigError, match="have no effect with --objective slow_teacher"):
        parse_training("fastimae-train", [*words, "slow_teacher:SlowTeacher"])


def test_imae_mixes_images_that_were_changed(batch):
    student, settings = model(heads=2), PixelSettings(color_jitter=0.4, blur=0.5)
    images = color_jitter(batch.images, jitter_factors(batch.key, 0.4))
    changed = dataclasses.replace(batch, images=blur(images, blur_sigma(batch.key, 0.5)))
    got, expected = IMAE(student, model(), pixels=settings)(batch), IMAE(student, model())(changed)
    assert torch.equal(got["recon_dominant"], expected["recon_dominant"])
    shown = IMAE(student, pixels=settings).reconstruct(batch)
    assert torch.equal(shown["dominant"], changed.images[batch.partner])


def test_pixels_are_one_graph_and_exact_in_bf16(batch):
    """No value is waited for, or the graph would break; autocast changes no pixel."""
    pixels = Pixels(model(), ALL)
    expected = pixels(batch).images
    function = torch.compile(lambda batch: pixels(batch).images, backend="eager", fullgraph=True)
    assert torch.equal(function(batch), expected)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(pixels(batch).images, expected)


def test_what_cannot_be_changed_is_named(batch):
    with pytest.raises(ConfigError, match=r"--color_jitter .* --in_chans 1: use --color_jitter 0"):
        MAE(model(in_chans=1), pixels=ALL)
    MAE(model(in_chans=1), pixels=PixelSettings(cutmix=1.0, blur=0.5))
    batch.partner = batch.partner[:3]
    with pytest.raises(ValueError, match="partner"):
        MAE(model(), pixels=ALL)(batch)
    MAE(model())(batch)
    with pytest.raises(ValueError, match="mask_ratio 0 leaves"):
        IMAE(model(heads=2), mask_ratio=0)
