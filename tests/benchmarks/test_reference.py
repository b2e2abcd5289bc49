"""The plain pipeline has the same maths, so beating it means being faster."""

import pytest
import torch
from PIL import Image
from torchvision.transforms import functional

from benchmarks.reference import PlainStep, mixture, plain_adamw, plain_loader, usual_dtype
from benchmarks.reference.data import collate
from benchmarks.train.cases import SMOKE_CASES, drawn_ratio, float_images, make_objective
from benchmarks.train.cases import make_batch as noise_batch
from benchmarks.train.reference_step import ReferenceModels
from fastimae.arguments import parse_training
from fastimae.build import build_objective
from fastimae.engine.optim import build_optimizer
from fastimae.models import IMAGENET_MEAN, IMAGENET_STD

CASES = {case.objective: case for case in SMOKE_CASES.values()}
STATISTICS = {"mean": IMAGENET_MEAN, "std": IMAGENET_STD}


def tensors_of(case, batch):
    images = float_images(batch.images)
    if case.objective == "mae":
        return [images]
    return mixture(images, batch.partner, drawn_ratio(batch))


@pytest.mark.parametrize("objective", ["mae", "imae"])
@pytest.mark.parametrize("norm_pix", [False, True])
@pytest.mark.parametrize("sdpa", [False, True])
def test_loss_and_gradients_are_ours(objective, norm_pix, sdpa):
    case = CASES[objective]
    ours, batch = make_objective(case), noise_batch(case, 6)
    ours.student.norm_pix_loss = norm_pix
    mask = ours.draw_mask(batch.key if objective == "mae" else batch)
    loss = ours(batch, mask=mask)["loss"]
    loss.backward()
    plain = ReferenceModels(case, ours)
    plain.use(sdpa=sdpa)
    plain.noise = mask.mask
    other = plain(*tensors_of(case, batch))
    other.backward()
    assert loss.item() == pytest.approx(other.item(), rel=1e-5)
    grads = dict(plain.student.named_parameters())
    for name, parameter in ours.student.named_parameters():
        if parameter.requires_grad:
            torch.testing.assert_close(
                parameter.grad, grads[name].grad, rtol=1e-3, atol=1e-5, msg=name
            )
    assert all(p.grad is None for p in (plain.teacher or torch.nn.Module()).parameters())


def test_both_heads_are_trained():
    """Each learns from its image: changing the partner changes only the gradient of its head."""
    case = CASES["imae"]
    plain, batch = ReferenceModels(case, make_objective(case)), noise_batch(case, 4)
    mixed, images, other = tensors_of(case, batch)
    plain.noise = torch.rand(4, 16)

    def gradients(other):
        plain.zero_grad()
        plain(mixed, images, other).backward()
        heads = plain.student.decoder_embed1, plain.student.decoder_embed2
        return [head.weight.grad.clone() for head in heads]

    first, second = zip(gradients(other), gradients(other.flip(0)), strict=True)
    assert torch.equal(*first) and not torch.equal(*second)


def test_the_mixture_is_that_of_fastimae_train():
    """With its default mixing ratio."""
    case = CASES["imae"]
    flags = f"--synthetic --objective imae --model {case.model} --input_size {case.img_size}"
    product = build_objective(parse_training("fastimae-train", flags.split()))
    batch = noise_batch(case, 4)
    ratio = product.ratio(batch.key, batch.step_key)
    assert torch.equal(make_objective(case).ratio(batch.key, batch.step_key), ratio)
    mixed, own, other = tensors_of(case, batch)
    s = ratio[:, None, None, None]
    torch.testing.assert_close(mixed, s * own + (1 - s) * other)
    assert torch.equal(other[0], float_images(batch.images)[batch.partner[0]])


def test_the_optimizer_is_ours():
    """It has the same groups, and gives the same weights after a step."""
    case = CASES["mae"]
    ours = make_objective(case)
    plain = ReferenceModels(case, ours)
    pair = {
        ours.student: build_optimizer(ours, 1e-3, 0.05),
        plain.student: plain_adamw(plain.student, 1e-3),
    }
    for model, optimizer in pair.items():
        for name, parameter in model.named_parameters():
            seed = sum(name.encode())
            noise = torch.Generator().manual_seed(seed)
            if parameter.requires_grad:
                parameter.grad = torch.randn(parameter.shape, generator=noise)
        optimizer.step()
    after = dict(plain.student.named_parameters())
    for name, parameter in ours.student.named_parameters():
        torch.testing.assert_close(parameter, after[name], rtol=1e-5, atol=1e-6, msg=name)


def test_the_plain_step_trains():
    case = CASES["mae"]
    plain, batch = ReferenceModels(case, make_objective(case)), noise_batch(case, 8)
    plain.noise = torch.rand(8, 16)
    adamw = plain_adamw(plain.student, 1e-3)
    step = PlainStep(plain, adamw, dtype=usual_dtype(torch.device("cpu")))
    losses = [step(*tensors_of(case, batch)).item() for _ in range(10)]
    assert losses[-1] < losses[0]


@pytest.mark.parametrize("waits", [False, True])
def test_only_the_usual_step_reads_the_loss(waits, monkeypatch):
    case = CASES["mae"]
    plain, batch = ReferenceModels(case, make_objective(case)), noise_batch(case, 2)
    read = []
    monkeypatch.setattr(torch.Tensor, "item", lambda self: read.append(self.shape))
    adamw = plain_adamw(plain.student, fused=True)
    PlainStep(plain, adamw, waits=waits)(*tensors_of(case, batch))
    assert read == [torch.Size([])] * waits


def test_masks_are_drawn_anew():
    case = CASES["mae"]
    plain, batch = ReferenceModels(case, make_objective(case)), noise_batch(case, 8)
    first, second = (plain(*tensors_of(case, batch)).item() for _ in range(2))
    assert first != second


def test_the_loader_gives_normalised_crops(tmp_path):
    """Every crop of an image of one colour is known; the other class is black."""
    colour = (200, 100, 50)
    for label, fill in (("a", colour), ("b", (0, 0, 0))):
        (tmp_path / label).mkdir()
        Image.new("RGB", (40, 30), fill).save(tmp_path / label / "0.png")
    loader = plain_loader(
        tmp_path, input_size=16, batch_size=4, num_workers=0, steps=3, **STATISTICS
    )
    batches = list(loader)
    assert [len(batch) for batch in batches] == [1, 1, 1]
    values = torch.tensor(colour) / 255
    expected = functional.normalize(values[:, None, None].expand(3, 16, 16), *STATISTICS.values())
    images = torch.cat([images for (images,) in batches])
    coloured = images[:, 0, 0, 0] > 0
    torch.testing.assert_close(images[coloured], expected.expand(6, 3, 16, 16))


def test_mixtures_are_of_the_batch():
    samples = [(torch.full((3, 2, 2), float(n)), 0) for n in range(6)]
    mixed, images, other = collate(samples, alpha=0.25)
    torch.testing.assert_close(mixed, 0.25 * images + 0.75 * other)
    assert sorted(other[:, 0, 0, 0].tolist()) == [0, 1, 2, 3, 4, 5]
    assert torch.equal(collate(samples, alpha=None)[0], images)
