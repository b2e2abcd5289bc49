"""Mask R-CNN on an encoder: its pyramid, keyed draws, precision, masks, and any checkpoint."""

import numpy as np
import pytest
import torch
from foreign_checkpoints import FLAGS, FOREIGN, write_foreign
from shape_scenes import make_scene
from tiny import tiny_model

pytest.importorskip("faster_coco_eval")
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.image_list import ImageList
from torchvision.models.detection.roi_heads import project_masks_on_boxes

from fastimae.engine.distributed import ALONE
from fastimae.evaluate.command import options_of
from fastimae.evaluate.detection.heads import ASPECT_RATIOS, Anchors, KeyedSampler
from fastimae.evaluate.detection.objective import Detection
from fastimae.evaluate.detection.opened import make_detector
from fastimae.evaluate.detection.paste import _many_in_the_image as many_in_the_image
from fastimae.evaluate.detection.paste import _positions as positions_of
from fastimae.evaluate.detection.paste import in_original_size, paste
from fastimae.evaluate.detection.pyramid import RPN_STRIDES, Pyramid, nearest_stride
from fastimae.evaluate.detection.targets import collate_targets, make_target
from fastimae.evaluate.detection.task import DetectTask
from fastimae.evaluate.options.detect import DetectOptions
from fastimae.evaluate.options.detector import ANCHOR_SIZES
from fastimae.evaluate.training.batches import LabelledBatch
from fastimae.settings import ConfigError

SMALL = {"head_channels": 8, "proposals": 16, "rpn_batch": 32, "roi_batch": 16, "window": 4}
SIDE = 64


def settled(side=SIDE, patch_size=8, **changes):
    options = DetectOptions(checkpoint=None, input_size=(side,), **{**SMALL, **changes})
    return options.settled(patch_size)


def detector(side=SIDE, patch_size=8, masks=True, **changes):
    torch.manual_seed(0)
    options = settled(side, patch_size, **changes)
    model = tiny_model(img_size=side, patch_size=patch_size, decoder=False)
    return make_detector(model, 3, options, options.input_size, masks=masks)


@pytest.mark.parametrize(
    ("flags", "windows", "warned"),
    [({"window": DetectOptions.window}, 0, False), ({"window": 0}, 0, False),
     ({"window": 4}, 0, True), ({"window": 4, "global_blocks": (1,)}, 4, False)],
)  # fmt: skip
def test_a_window_that_no_block_has_is_pointed_out(flags, windows, warned, caplog):
    """Of two blocks, both are the last of a quarter."""
    student, data = detector(**flags), [None] * 3
    assert student.encoder.windowed == bool(windows)
    with caplog.at_level("INFO"):
        DetectTask().log_sizes(settled(**flags), student, data, data, ALONE)
    said = "windows of 4 patches;" if windows else "global attention;"
    assert said in caplog.messages[-1]
    warnings = [r.getMessage() for r in caplog.records if r.levelname == "WARNING"]
    assert warnings == warned * [
        "--window 4 has no effect: all 2 blocks of the encoder attend to all patches, unless "
        "--global_blocks names fewer"
    ]


def batch_of(*scenes, side=SIDE, key=5):
    """Make a batch of scenes, None for an image without objects."""
    targets, inputs = [], torch.randn(len(scenes), 3, side, side)
    for scene in scenes:
        found = scene.instances if scene else []
        parts = [(0, 0, each.pixels) for each in found]
        targets.append(
            make_target([np.array(each.box) for each in found], [e.label for e in found], parts)
        )
    return LabelledBatch(
        inputs=inputs, targets=collate_targets(targets),
        index=torch.arange(len(scenes)), key=torch.arange(len(scenes)) + key,
    )  # fmt: skip


@pytest.mark.parametrize("patch_size", [4, 8, 14, 16, 32])
def test_maps_have_the_same_strides_whatever_the_patch_size(patch_size):
    """The hierarchical paper, C.7; a patch lights up where it is, in each of the maps."""
    side = 448 if patch_size == 14 else 256
    torch.manual_seed(1)
    pyramid = Pyramid(32, patch_size, channels=8)
    grid = side // patch_size
    with torch.no_grad():
        background = torch.randn(1, 32, 1, 1).expand(1, 32, grid, grid)
        row, column = grid * 3 // 4, grid // 4
        lit = background.clone()
        lit[0, :, row, column] += torch.randn(32)
        before, after = pyramid(background), pyramid(lit)
    assert list(after) == [str(stride) for stride in RPN_STRIDES]
    for name, stride in zip(after, RPN_STRIDES, strict=True):
        assert after[name].shape == (1, 8, side // stride, side // stride)
        if stride == 64:
            continue
        change = (after[name] - before[name]).abs().sum(1)[0]
        rows, columns = np.nonzero(change.numpy() > 0)
        blur = nearest_stride(patch_size) if patch_size == 14 else 0  # it is resampled
        reach = 1.5 * stride + patch_size + nearest_stride(patch_size) + blur  # 3 x 3 convolution
        for places, at in ((rows, row), (columns, column)):
            assert len(places)
            centre = (at + 0.5) * patch_size
            assert abs((places.min() + places.max() + 1) / 2 * stride - centre) <= stride + blur / 2
            assert (abs((places + 0.5) * stride - centre) <= reach).all()


def test_odd_patches_are_resampled_to_the_nearest_stride():
    strides = {2: 4, 4: 4, 5: 4, 6: 8, 8: 8, 10: 8, 12: 16, 14: 16, 16: 16, 20: 16, 28: 32, 64: 32}
    assert {patch: nearest_stride(patch) for patch in strides} == strides


def test_anchors_are_torchvisions_in_fp32_also_for_maps_in_bf16():
    maps = [torch.zeros(1, 1, 128 // s, 128 // s, dtype=torch.bfloat16) for s in RPN_STRIDES]
    images = ImageList(torch.zeros(1, 3, 128, 128), [(128, 128)])
    theirs = AnchorGenerator(tuple((s,) for s in ANCHOR_SIZES), (ASPECT_RATIOS,) * 5)
    (ours,), (reference,) = (
        Anchors(ANCHOR_SIZES)(images, maps), theirs(images, [each.float() for each in maps])
    )  # fmt: skip
    assert ours.dtype == torch.float32 and torch.equal(ours, reference)
    # torchvision guesses strides: of 96 pixels, it takes the map of stride 64 for one of 48.
    odd = [torch.zeros(1, 1, side, side) for side in (24, 12, 6, 3, 2)]
    (ours,) = Anchors(ANCHOR_SIZES)(ImageList(torch.zeros(1, 3, 96, 96), [(96, 96)]), odd)
    centres = (ours[-12:, :2] + ours[-12:, 2:]) / 2
    assert sorted(set(centres.flatten().tolist())) == [0, 64]


def test_draws_are_a_function_of_the_samples_key_alone():
    labels = torch.tensor([1, 0, -1, 2, 0, 0, 3, 0, 0, 1] * 20)
    sampler, other = KeyedSampler(16, 0.25, 7), KeyedSampler(16, 0.25, 8)
    sampler.keys = other.keys = [3, -(1 << 62)]
    torch.manual_seed(0)
    state = torch.get_rng_state()
    positive, negative = sampler([labels, labels])
    assert torch.equal(torch.get_rng_state(), state)
    for drawn, kind in ((positive, labels >= 1), (negative, labels == 0)):
        assert all(set(kind[mask > 0].tolist()) == {True} for mask in drawn)
    assert [int(mask.sum()) for mask in positive] == [4, 4]
    assert [int(mask.sum()) for mask in negative] == [12, 12]
    assert not torch.equal(positive[0], positive[1])
    assert not torch.equal(other([labels, labels])[1][0], negative[0])
    sampler.keys = [-(1 << 62)]  # in another batch
    assert torch.equal(sampler([labels])[0][0], positive[1])
    few = torch.tensor([1, 0, -1])
    assert [int(masks[0].sum()) for masks in sampler([few])] == [1, 1]


def test_losses_follow_from_keys_and_every_parameter_is_trained():
    student = detector(drop_path=0.5, rpn_batch=4096)  # all anchors
    objective = Detection(student, "fp32").train()
    batch = batch_of(make_scene(1, SIDE), make_scene(2, SIDE))
    first, again = objective(batch), objective(batch)
    assert all(torch.equal(first[name], again[name]) for name in first)
    parts = {name: value for name, value in first.items() if name != "loss"}
    assert set(parts) == {"rpn_class", "rpn_box", "box_class", "box", "mask"}
    torch.testing.assert_close(first["loss"], sum(parts.values()))
    first["loss"].backward()
    silent = [n for n, p in student.named_parameters() if p.grad is None or not p.grad.any()]
    # Window attention leaves the class token out, and its position.
    assert not [name for name in silent if "qkv.bias" not in name]
    batch.key = batch.key + 1
    assert not torch.equal(objective(batch)["loss"], first["loss"])


def test_images_without_objects_or_proposals_have_finite_losses(monkeypatch):
    objective = Detection(detector(), "fp32").train()
    empty = batch_of(None, None)
    losses = [objective(empty)]
    assert losses[0]["mask"] == losses[0]["box"] == losses[0]["rpn_box"] == 0
    # Boxes that are all outside of the image leave nothing to look at but the whole.
    coder = objective.student.rpn.box_coder
    monkeypatch.setattr(coder, "decode", lambda deltas, _: torch.full((len(deltas), 4), -9.0))
    losses += [objective(empty), objective(batch_of(make_scene(1, SIDE), None))]
    for each in losses:
        each["loss"].backward()
        gradients = [p.grad for p in objective.student.parameters() if p.requires_grad]
        assert each["loss"].isfinite() and all(g.isfinite().all() for g in gradients)


def test_in_bf16_convolutions_round_but_boxes_do_not():
    student = detector()
    batch = batch_of(make_scene(1, SIDE), make_scene(2, SIDE))
    exact, rounded = (Detection(student, how).train()(batch) for how in ("fp32", "bf16"))
    for name, value in rounded.items():
        assert value.dtype == torch.float32
        torch.testing.assert_close(value, exact[name], rtol=0.1, atol=0.02, msg=name)
    assert not torch.equal(exact["loss"], rounded["loss"])
    student.eval()
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        found = student(batch.inputs, sizes=[(SIDE, 40), (30, SIDE)])
    for each, (height, width) in zip(found, ((SIDE, 40), (30, SIDE)), strict=True):
        boxes = each["boxes"]
        assert boxes.dtype == each["scores"].dtype == each["masks"].dtype == torch.float32
        assert len(boxes) and not torch.equal(boxes, boxes.bfloat16().float())
        assert boxes[:, 0::2].max() <= width and boxes[:, 1::2].max() <= height


def test_without_outlines_only_boxes_are_learned_and_found():
    student = detector(masks=False)
    losses = Detection(student, "fp32").train()(batch_of(make_scene(1, SIDE)))
    assert "mask" not in losses and losses["loss"].isfinite()
    found = student.eval()(torch.randn(1, 3, SIDE, SIDE))[0]
    assert "masks" not in found and in_original_size(found, (1, 1), (SIDE, SIDE)).masks is None


def pasted_slowly(mask, box, size):
    """Interpolate a mask at each pixel of an image, one by one."""
    side, out = len(mask), np.zeros(size)
    for y in range(size[0]):
        for x in range(size[1]):
            if not (box[0] <= x + 0.5 <= box[2] and box[1] <= y + 0.5 <= box[3]):
                continue
            u = np.clip((x - box[0]) / (box[2] - box[0]) * side - 0.5, 0, side - 1)
            v = np.clip((y - box[1]) / (box[3] - box[1]) * side - 0.5, 0, side - 1)
            for row in {int(np.floor(v)), int(np.ceil(v))}:
                for column in {int(np.floor(u)), int(np.ceil(u))}:
                    weight = (1 - abs(v - row)) * (1 - abs(u - column))
                    out[y, x] += weight * mask[row, column]
    return out > 0.5


def test_masks_are_pasted_as_they_are_learned():
    rng = np.random.default_rng(0)
    masks, boxes = rng.random((2, 6, 6)), np.array([[3.3, 4.1, 17.2, 25.9], [-4.0, 2, 9, 8.5]])
    found = paste(torch.from_numpy(masks).float(), torch.from_numpy(boxes).float(), (31, 22))
    for mask, box, pixels in zip(masks, boxes, found, strict=True):
        assert np.array_equal(pixels.numpy(), pasted_slowly(mask, box, (31, 22)))
    assert paste(torch.zeros(0, 6, 6), torch.zeros(0, 4), (5, 7)).shape == (0, 5, 7)
    # What the loss takes from a true mask, pasted, is that mask.
    for seed in range(4):
        for each in make_scene(seed, 96).instances:
            rows, columns = (np.flatnonzero(each.pixels.any(axis)) for axis in (1, 0))
            box = torch.tensor([[columns[0], rows[0], columns[-1] + 1, rows[-1] + 1]]).float()
            truth = torch.from_numpy(each.pixels)[None].to(torch.uint8)
            target = project_masks_on_boxes(truth, box, torch.tensor([0]), 28)
            again = paste(target, box, (96, 96))[0].numpy()
            assert (again & each.pixels).sum() / (again | each.pixels).sum() > 0.95


@pytest.mark.parametrize("scale", [(1.0, 1.0), (1.6, 0.7)])
def test_only_the_pixels_of_boxes_are_looked_at_and_no_bit_differs(scale, monkeypatch):
    """The reference samples the whole image for each box, as on a GPU."""
    generator, place = torch.Generator().manual_seed(0), "fastimae.evaluate.detection.paste."
    masks, size = torch.rand(60, 14, 14, generator=generator), (70, 90)
    boxes = torch.rand(60, 4, generator=generator) * 120 - 15
    boxes[:20, 2:] = boxes[:20, :2] + torch.rand(20, 2, generator=generator) * 3  # small ones
    boxes[20:30] = boxes[20:30].round()  # ends on pixels, some of which are turned around
    boxes[33:] = boxes[33:].unflatten(1, (2, 2)).sort(1).values.flatten(1)
    boxes[30:32] = torch.tensor([torch.nan, torch.inf])[:, None]
    boxes[32] = torch.tensor([-3.0, 5, 1e9, 60])
    found, looked_at = paste(masks, boxes, size, scale), []

    def positions(first, last, pixels, scale, real=positions_of):
        looked_at.append(len(pixels) / len(first))
        return real(first, last, pixels, scale)

    with monkeypatch.context() as patch:
        patch.setattr(f"{place}_positions", positions)
        paste(masks[:20], boxes[:20], size, scale)
    assert 0 < len(looked_at) <= 40 and max(looked_at) <= 4
    monkeypatch.setattr(f"{place}_PIXELS_AT_ONCE", 25 * 70 * 90)
    monkeypatch.setattr(f"{place}_each_in_its_box", many_in_the_image)
    assert torch.equal(paste(masks, boxes, size, scale), found) and found.any((1, 2)).sum() > 20


@pytest.mark.parametrize("scale", [0.5, 1.0, 2.0, 3.0])
def test_masks_are_pasted_without_a_shift_whatever_the_scale_of_the_test(scale):
    """A disc in a file; what the loss takes from the resized disc comes back to its place."""
    side, centre, radius = 120, np.array([60.0, 60.0]), 30.0

    def disc(scale):
        at = (np.arange(round(side * scale)) + 0.5) / scale
        return np.hypot(at[None] - centre[0], at[:, None] - centre[1]) < radius

    box = torch.tensor([[*(centre - radius), *(centre + radius)]]).float() * scale
    resized = torch.from_numpy(disc(scale))[None].to(torch.uint8)
    target = project_masks_on_boxes(resized, box, torch.tensor([0]), 28)
    found = {"boxes": box, "scores": torch.ones(1), "labels": torch.ones(1, dtype=torch.int64)}
    again = in_original_size(found | {"masks": target[:, None]}, (scale, scale), (side, side))
    rows, columns = np.nonzero(again.masks[0].numpy())
    np.testing.assert_allclose([columns.mean() + 0.5, rows.mean() + 0.5], centre, atol=0.18)


def test_boxes_go_back_to_the_pixels_of_the_file():
    boxes = torch.tensor([[2.0, 4.0, 30.0, 20.0], [10.0, 0.0, 64.0, 48.0]])
    found = {"boxes": boxes, "scores": torch.ones(2), "labels": torch.ones(2, dtype=torch.int64)}
    found["masks"] = torch.ones(2, 1, 28, 28)
    there = in_original_size(found, (0.5, 0.25), (160, 120))
    assert there.boxes.tolist() == [[4, 16, 60, 80], [20, 0, 120, 160]]
    assert there.masks.shape == (2, 160, 120)
    assert there.masks[0, 20:78, 8:58].all() and not there.masks[0, :14].any()


@pytest.mark.parametrize("layout", FOREIGN)
def test_the_encoder_of_any_checkpoint_becomes_a_detector(layout, tmp_path):
    path = write_foreign(layout, tmp_path)
    small = [f"--{name}={value}" for name, value in SMALL.items()]
    options = options_of(
        "detect", ["--checkpoint", str(path), "--coco", "x", "--input_size", "64", *FLAGS, *small]
    )
    model = options.load_encoder(torch.device("cpu"))
    options = options.settled(model.patch_size)
    student = make_detector(model, 3, options, options.input_size, masks=True)
    own = model.state_dict()
    for name, value in student.encoder.state_dict().items():
        assert "pos_embed" in name or torch.equal(value, own[name]), name
    losses = Detection(student, "fp32").train()(batch_of(make_scene(1, SIDE)))
    losses["loss"].backward()
    assert losses["loss"].isfinite() and student.encoder.patch_embed.proj.weight.grad.any()


def test_sizes_that_do_not_fit_the_patches_or_strides_are_refused():
    for side, patch, words in (
        (1000, 16, "not a multiple of 32.*use 992 or 1024"),
        (1024, 14, "not a multiple of 224.*use 896 or 1120"),
        (16, 8, "use 32 or 64|use 32"),
    ):
        with pytest.raises(ConfigError, match=words):
            settled(side, patch)
    unset = DetectOptions(checkpoint=None)
    assert [unset.settled(patch).side for patch in (8, 14, 16, 32)] == [1024, 1120, 1024, 1024]
    with pytest.raises(ConfigError, match="there is no block 9"):
        detector(global_blocks=(9,))
