"""Models of segmentation: heads, the loss, what is trained, and encoders of any checkpoint."""

import types

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from foreign_checkpoints import FLAGS, FOREIGN, write_foreign
from tiny import tiny_model

pytest.importorskip("timm")
pytest.importorskip("torchmetrics")

from fastimae.engine.checkpoint import FORMAT, save_checkpoint
from fastimae.engine.checkpoint_file import CLASSES
from fastimae.engine.optim import adamw
from fastimae.evaluate.command import options_of
from fastimae.evaluate.dense.run import optimizer_for
from fastimae.evaluate.dense.saved import encoder_settings
from fastimae.evaluate.options.segment import OF_TRAINING
from fastimae.evaluate.segmentation.heads import LinearHead, PyramidHead
from fastimae.evaluate.segmentation.model import build_segmenter, layers_of
from fastimae.evaluate.segmentation.objective import Segmentation
from fastimae.evaluate.segmentation.opened import load_trained
from fastimae.evaluate.segmentation.task import SegmentTask
from fastimae.evaluate.training.batches import LabelledBatch
from fastimae.loaders.order.philox import KeyStream, derive_keys
from fastimae.models import create_model
from fastimae.objectives.base import check_parameters

IGNORE = 255


def built(head="linear", frozen=True, drop_path=0.0, encoder=None, size=(64, 64), **more):
    torch.manual_seed(3)
    sizes = {"layers": None, "head_dim": 8, "img_size": size, "drop_path": drop_path, **more}
    return build_segmenter(encoder or tiny_model(), 4, head=head, frozen=frozen, **sizes)


def batch_of(count=3, size=(64, 64), seed=0):
    generator = torch.Generator().manual_seed(seed)
    masks = torch.randint(0, 4, (count, *size), generator=generator, dtype=torch.uint8)
    masks[:, :20] = IGNORE
    return LabelledBatch(
        inputs=torch.randn(count, 3, *size, generator=generator),
        targets=masks, index=torch.arange(count), key=torch.arange(count),
    )  # fmt: skip


def test_the_linear_head_is_a_norm_and_a_layer_for_each_place():
    torch.manual_seed(0)
    head, maps = LinearHead(6, 2, 3), [torch.randn(4, 6, 5, 7) for _ in range(2)]
    rows = torch.cat(maps, 1).permute(0, 2, 3, 1).reshape(-1, 12).double()
    normed = (rows - rows.mean(0)) / (rows.var(0, unbiased=False) + 1e-6).sqrt()
    weight, bias = head.classify.weight[:, :, 0, 0].double(), head.classify.bias.double()
    expected = (normed @ weight.T + bias).reshape(4, 5, 7, 3).permute(0, 3, 1, 2)
    torch.testing.assert_close(head(maps).double(), expected, rtol=1e-4, atol=1e-5)
    head.eval()
    one = head([each[:1] for each in maps])
    torch.testing.assert_close(one, head(maps)[:1])  # no statistics of the batch
    assert "norm.num_batches_tracked" in head.state_dict()


@pytest.mark.parametrize("patch_size", [2, 4, 8, 14, 16, 32])
def test_the_pyramids_maps_have_strides_from_4_to_32(patch_size):
    head = PyramidHead(6, 4, 3, patch_size=patch_size, dim=4).eval()
    grid = 64
    maps = [torch.randn(1, 6, grid, grid) for _ in range(4)]
    sides = [scale(each).shape[-1] for scale, each in zip(head.scale, maps, strict=True)]
    nearest = {2: 2, 4: 4, 8: 8, 14: 16, 16: 16, 32: 32}[patch_size]
    assert [grid * nearest / side for side in sides] == [4, 8, 16, 32]
    assert head(maps).shape == (1, 3, sides[0], sides[0])


@pytest.mark.parametrize("grid", [(1, 1), (3, 5)])
def test_the_pyramid_takes_any_grid_and_no_image_depends_on_another(grid):
    torch.manual_seed(0)
    head = PyramidHead(6, 4, 3, patch_size=8, dim=4)
    maps = [torch.randn(2, 6, *grid) for _ in range(4)]
    alone = head([each[1:] for each in maps])
    torch.testing.assert_close(head(maps)[1:], alone)


def test_heads_read_their_usual_blocks():
    assert layers_of("linear", None, 12) == [-1]
    assert layers_of("fpn", None, 12) == [2, 5, 8, 11]
    assert layers_of("fpn", None, 24) == [5, 11, 17, 23]
    assert layers_of("fpn", None, 2) == [0, 0, 0, 1]
    assert layers_of("linear", [0, -1], 2) == [0, -1]


@pytest.mark.parametrize("head", ["linear", "fpn"])
def test_the_loss_is_a_mean_over_pixels_that_count(head):
    student, batch = built(head).eval(), batch_of()
    loss = Segmentation(student)(batch)["loss"]
    with torch.no_grad():
        logits = student(batch.inputs).double()
    assert logits.shape == (3, 4, 64, 64)
    counts = batch.targets != IGNORE
    probabilities = logits.softmax(1).gather(1, batch.targets.long().clamp(max=3)[:, None])[:, 0]
    expected = -(probabilities.log() * counts).sum() / counts.numel()
    assert loss.item() == pytest.approx(expected.item(), rel=1e-5)
    batch.targets[:] = IGNORE
    assert Segmentation(student)(batch)["loss"] == 0


def test_logits_are_enlarged_as_torch_does_it():
    student, images = built().eval(), batch_of().inputs
    small = student.head(student.encoder(images))
    expected = F.interpolate(small, (64, 64), mode="bilinear", align_corners=False)
    torch.testing.assert_close(student(images), expected)


def test_a_frozen_encoder_stays_as_it_is():
    objective = Segmentation(built(frozen=True, drop_path=0.5))
    check_parameters(objective)
    objective.train()
    student = objective.student
    assert student.head.training and not any(m.training for m in student.encoder.modules())
    objective(batch_of())["loss"].backward()
    grads = {name for name, p in student.named_parameters() if p.grad is not None}
    assert grads == {"head.classify.weight", "head.classify.bias"}


def test_all_of_the_rest_is_trained_with_decaying_rates():
    objective = Segmentation(built("fpn", frozen=False, drop_path=0.5))
    check_parameters(objective)
    objective.train()
    objective(batch_of())["loss"].backward()
    student = objective.student
    assert [name for name, p in student.named_parameters() if p.grad is None] == []
    options = types.SimpleNamespace(weight_decay=0.1, layer_decay=0.5)
    groups = optimizer_for(student, options)(1.0, adamw(one_pass=False)).param_groups
    scales = {id(p): (g["lr_scale"], g["weight_decay"]) for g in groups for p in g["params"]}
    named = {name: scales[id(p)] for name, p in student.named_parameters()}
    assert named["head.classify.weight"] == (1, 0.1) and named["head.classify.bias"] == (1, 0)
    assert named["encoder.blocks.1.attn.qkv.weight"] == (0.5, 0.1)
    assert named["encoder.blocks.0.attn.qkv.weight"] == (0.25, 0.1)
    assert named["encoder.pos_embed"] == (0.125, 0)
    frozen = optimizer_for(built(), options)(1.0, adamw(one_pass=False)).param_groups
    assert sum(len(group["params"]) for group in frozen) == 2


def test_paths_are_dropped_by_the_keys_of_samples():
    objective = Segmentation(built("fpn", frozen=False, drop_path=0.5)).train()
    batch = batch_of()
    batch.key = torch.from_numpy(derive_keys(0, np.arange(3), 0, KeyStream.SAMPLE))
    first, again = (objective(batch)["loss"].item() for _ in range(2))
    batch.key = torch.from_numpy(derive_keys(0, np.arange(3), 1, KeyStream.SAMPLE))
    assert first == again != objective(batch)["loss"].item()


def test_bf16_steps_are_near_fp32s():
    from fastimae.engine.precision import precision_context

    for head, frozen in (("linear", True), ("fpn", False)):
        objective = Segmentation(built(head, frozen=frozen))
        losses = []
        for precision in ("fp32", "bf16"):
            with precision_context(objective, precision, torch.device("cpu")):
                loss = objective(batch_of())["loss"]
                loss.backward()
            losses.append(loss.item())
        assert losses[1] == pytest.approx(losses[0], rel=1e-2)


@pytest.mark.parametrize("layout", FOREIGN)
def test_any_checkpoint_takes_a_step_and_is_loaded_again(layout, tmp_path):
    path = write_foreign(layout, tmp_path / "foreign")
    words = ["--checkpoint", str(path), "--data_path", str(tmp_path), "--input_size", "64", "48"]
    options = options_of("segment", [*words, *FLAGS, "--no_frozen", "--head_dim", "8"]).settled(8)
    encoder = options.load_encoder(torch.device("cpu"))
    torch.manual_seed(0)
    student = SegmentTask().build(options, encoder, types.SimpleNamespace(classes=list("abcd")))
    objective, batch = Segmentation(student).train(), batch_of(size=(64, 48))
    optimizer = optimizer_for(student, options)(1e-2, adamw(one_pass=False))
    losses = []
    for _ in range(3):
        optimizer.zero_grad()
        loss = objective(batch)["loss"]
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0]
    args = {**{name: getattr(options, name) for name in OF_TRAINING}, CLASSES: list("abcd")}
    args |= encoder_settings(encoder, student.encoder.img_size)
    content = {"model": student.state_dict(), "args": args, "fastimae_format": FORMAT}
    save_checkpoint(tmp_path / "best.pth", content)
    words = ["--eval", "--resume", str(tmp_path / "best.pth"), "--data_path", str(tmp_path)]
    again, classes, settled = load_trained(options_of("segment", words))
    assert classes == list("abcd") and tuple(settled.input_size) == (64, 48)
    with torch.no_grad():
        assert torch.equal(again.eval()(batch.inputs), student.eval()(batch.inputs))


def test_images_of_other_sizes_than_the_checkpoints_are_taken():
    encoder = create_model("mae_vit_nano_patch16", img_size=32).eval()
    student = built("fpn", encoder=encoder, size=(96, 64)).eval()
    assert student(torch.randn(1, 3, 96, 64)).shape == (1, 4, 96, 64)
    assert student(torch.randn(1, 3, 32, 128)).shape == (1, 4, 32, 128)
