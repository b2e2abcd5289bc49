"""C-MAE's loss against equations 9 to 11 in float64, its target model, and its two views."""

import dataclasses

import oracle
import pytest
import torch
from torch import nn

from fastimae.engine.precision import weights_cast_to
from fastimae.kernels import Mask, random_masking
from fastimae.kernels.color_jitter import color_jitter, jitter_factors
from fastimae.models import create_model
from fastimae.objectives import CMAE
from fastimae.objectives.contrast import byol, info_nce, spread
from fastimae.objectives.settings import CMAESettings
from fastimae.pictures.display import MASKED_GRAY
from fastimae.settings import ConfigError

IMAGE, PATCHES, HEADS = (12, 16), 12, 2
SIZES = {"img_size": IMAGE, "embed_dim": 16, "depth": 2, "num_heads": HEADS, "decoder": False}
SMALL = {"proj_hidden_dim": 10, "proj_dim": 6, "mask_ratio": 0.6, "color_jitter": 0.0}
DROPPED = {"encoder_mask_tokens": False}


def cmae(**settings):
    """Make a small C-MAE whose target is not the student, as after some steps."""
    student = create_model("mae_vit_tiny_patch4", **SIZES)
    objective = CMAE(student, CMAESettings(**{**SMALL, **settings}))
    for parameter in objective.parameters():
        parameter.data += 0.1 * torch.randn_like(parameter)
    return objective


def part(state, name):
    """Return the entries of a part of the objective, without its name."""
    return {k.removeprefix(f"{name}."): v for k, v in state.items() if k.startswith(f"{name}.")}


def latents(patches, visible, state, mask_token):
    """Encode a view, {place: latent [D]}; the class token is at place -1."""
    if mask_token is None:
        rows = oracle.encode(patches, visible, state, HEADS)
        return dict(zip([-1, *visible], rows, strict=True))
    kernel, tokens = state["patch_embed.proj.weight"], [state["cls_token"][0, 0]]
    for i, patch in enumerate(patches):
        pixels = patch.view(4, 4, 3).permute(2, 0, 1)
        seen = (kernel * pixels).sum((1, 2, 3)) + state["patch_embed.proj.bias"]
        tokens.append(seen if i in visible else mask_token[0, 0])
    x = torch.stack(tokens) + state["pos_embed"][0]
    for number in range(2):
        x = oracle.block(x, state, f"blocks.{number}", HEADS)
    return dict(enumerate(oracle.layer_norm(x, state, "norm"), start=-1))


def contrasted(rows, tokens):
    """Return the tokens of table 3, {place: latent}."""
    cls = {-1: rows[-1]}
    patches = {place: row for place, row in rows.items() if place >= 0}
    mean = {0: sum(patches.values()) / len(patches)}
    return {"patch": patches, "cls": cls, "average": mean, "both": cls | patches}[tokens]


def head(x, state, name):
    return oracle.linear(oracle.gelu(oracle.linear(x, state, f"{name}.fc1")), state, f"{name}.fc2")


def cosine(x, y):
    return (x @ y) / torch.sqrt((x @ x) * (y @ y))


def transcribed(images, masks, state, student, settings):
    """Return C-MAE's loss by equations 9 to 11, or with BYOL's: a mean over tokens and images."""
    online, target = [], []
    for image, *ids in zip(images, *(mask.ids_keep.tolist() for mask in masks), strict=True):
        patches = oracle.patches_of(oracle.normalised(image, student.mean, student.std), 4)
        token = state.get("mask_token.weight")
        z1 = contrasted(latents(patches, ids[0], part(state, "student"), token), settings.tokens)
        online.append(
            {i: head(head(z, state, "projector"), state, "predictor") for i, z in z1.items()}
        )
        slow = part(state, "target")
        token = slow.get("mask_token.weight")
        z2 = contrasted(latents(patches, ids[1], part(slow, "student"), token), settings.tokens)
        target.append({i: head(z, slow, "projector").detach() for i, z in z2.items()})
    losses = []
    for b, queries in enumerate(online):
        for place, query in queries.items():
            similar = torch.stack([cosine(query, keys[place]) for keys in target])
            if settings.contrast == "byol":
                losses.append(2 - 2 * similar[b])
            else:
                terms = torch.exp(similar / settings.temperature)
                losses.append(-torch.log(terms[b] / terms.sum()))
    return torch.stack(losses).mean()


@pytest.mark.parametrize("contrast", ["infonce", "byol"])
@pytest.mark.parametrize(
    "how",
    [
        {"tokens": "patch"},
        {"tokens": "cls"},
        {"tokens": "average"},
        {"tokens": "both"},
        {"second_view": "independent"},
        {"second_view": "full"},
        {"mask_ratio": 0.0},
        {**DROPPED, "second_view": "full"},
        {**DROPPED, "second_view": "full", "tokens": "both"},
        {**DROPPED, "tokens": "average"},
        {**DROPPED, "tokens": "cls"},
        {"mask_ratio": 0.0, "tokens": "both"},
    ],
    ids=str,
)
def test_loss_and_gradients_are_those_of_the_equations(make_batch, how, contrast):
    settings = {**how, "contrast": contrast} | ({"temperature": 0.3} if contrast != "byol" else {})
    objective, batch = cmae(**settings), make_batch(4, IMAGE)
    got = objective(batch)["loss"]
    got.backward()
    state = oracle.float64(objective.state_dict())
    masks = objective.draw_masks(batch.key)
    loss = transcribed(batch.images, masks, state, objective.student, objective.settings)
    loss.backward()
    assert got.dtype == torch.float32
    assert abs(got.item() - loss.item()) < 1e-6 * max(1, loss.item())
    for name, parameter in objective.named_parameters():
        if not name.startswith("target.") and parameter.requires_grad:
            torch.testing.assert_close(
                parameter.grad.double(), state[name].grad, rtol=1e-5, atol=1e-6, msg=name
            )


def test_no_gradient_reaches_the_target(make_batch):
    objective = cmae()
    objective(make_batch(4, IMAGE))["loss"].backward()
    target = list(objective.target.parameters())
    assert target and not any(p.requires_grad or p.grad is not None for p in target)
    trained = [p for module in objective.trainable().values() for p in module.parameters()]
    assert all(p.grad is not None for p in trained if p.requires_grad)
    objective.train()
    assert objective.student.training and not objective.target.training


def test_the_target_is_the_average_of_the_students_weights(make_batch):
    """Exactly, in fp32, after seven steps; a new target is the student."""
    objective = CMAE(create_model("mae_vit_tiny_patch4", **SIZES), CMAESettings(**SMALL))
    objective.settings.ema_momentum = 0.9
    fast = dict(objective.named_parameters())
    pairs = {name: fast[name.removeprefix("target.")] for name in fast if "target." in name}
    assert {"target.mask_token.weight", "target.projector.fc1.bias"} < pairs.keys()
    assert not any("predictor" in name for name in pairs)
    expected = {name: each.detach().double() for name, each in pairs.items()}
    optimizer = torch.optim.SGD([p for p in objective.parameters() if p.requires_grad], lr=0.5)
    for _ in range(7):
        optimizer.zero_grad()
        objective(make_batch(4, IMAGE))["loss"].backward()
        optimizer.step()
        with torch.no_grad():
            objective.after_update()
        for name, online in pairs.items():
            expected[name] = 0.9 * expected[name] + 0.1 * online.detach().double()
    for name, value in expected.items():
        torch.testing.assert_close(fast[name].double(), value, rtol=1e-6, atol=1e-7, msg=name)
    moved = fast["target.projector.fc1.weight"] - pairs["target.projector.fc1.weight"]
    assert moved.abs().max() > 1e-4


def test_only_infonce_compares_with_other_images(make_batch):
    """An image is its own negative if it comes twice; alone it has none."""
    objective, batch = cmae(contrast="byol"), make_batch(4, IMAGE)

    def loss(*ids):
        images, key = batch.images[[*ids]], batch.key[[*ids]]
        return objective(dataclasses.replace(batch, images=images, key=key))["loss"]

    torch.testing.assert_close(loss(0, 1, 2, 3), sum(map(loss, range(4))) / 4)
    objective.settings.contrast = "infonce"
    torch.testing.assert_close(loss(1, 1), torch.tensor(2.0).log())
    with pytest.raises(ConfigError, match="--batch_size of 2 or more, or --contrast byol"):
        loss(0)


@pytest.mark.parametrize("kind", ["complement", "independent", "full"])
def test_the_masks_of_both_views(make_batch, kind):
    more = {"second_mask_ratio": 0.6} if kind == "independent" else {}
    objective, key = cmae(second_view=kind, **more), make_batch(64, IMAGE).key
    first, second = objective.draw_masks(key)
    assert all(map(torch.equal, first, random_masking(key, (3, 4), 0.6)))
    expected = {"complement": first.mask == 0, "full": torch.zeros(64, PATCHES, dtype=torch.bool)}
    if kind in expected:
        assert all(map(torch.equal, second, Mask.from_bool(expected[kind])))
    else:
        both = (first.mask * second.mask).mean()
        assert second.ids_keep.shape == first.ids_keep.shape and 0.35 < both < 0.55  # 0.67 ** 2
    assert objective.visible == (first.ids_keep.shape[1], second.ids_keep.shape[1])
    again = objective.draw_masks(key[[3]])
    assert all(torch.equal(a, b[[3]]) for a, b in zip(again[1], second, strict=True))


def test_views_are_jittered_by_themselves(make_batch):
    """The pictures are what the models see: here whole images, jittered with factors of a view."""
    objective, batch = cmae(mask_ratio=0.0, color_jitter=0.4), make_batch(8, IMAGE)
    pictures = objective.reconstruct(batch)
    for view in (0, 1):
        factors = jitter_factors(batch.key, 0.4, view=view)
        expected = color_jitter(batch.images, factors).int()
        assert (pictures[f"view {view + 1}"].int() - expected).abs().max() <= 1
    assert (pictures["view 1"].int() - pictures["view 2"].int()).abs().max() > 50
    assert torch.equal(pictures["input"], batch.images)


def test_pictures_show_what_each_view_hides(make_batch):
    objective, batch = cmae(), make_batch(3, IMAGE)
    pictures = objective.reconstruct(batch)
    gray = {name: (pictures[name] == MASKED_GRAY).all(-1) for name in ("view 1", "view 2")}
    assert torch.equal(gray["view 1"], ~gray["view 2"])
    shown = pictures["view 1"][~gray["view 1"]].int()
    assert (shown - batch.images[~gray["view 1"]].int()).abs().max() <= 1


def test_bf16_is_close_to_fp32(make_batch):
    objective, batch = cmae(tokens="both"), make_batch(8, IMAGE)
    exact = objective(batch)
    with weights_cast_to(objective, torch.bfloat16):
        rounded = objective(batch)
    assert rounded["loss"].dtype == torch.float32
    for name, value in exact.items():
        torch.testing.assert_close(rounded[name], value, rtol=2e-2, atol=2e-2, msg=name)


def test_infonce_of_known_directions():
    """Two images: equal directions, then opposite ones, then with another's rows before."""
    one, other = torch.eye(2).view(2, 1, 2)
    pair = torch.stack([one, other])
    expected = torch.log(1 + torch.exp(torch.tensor(-5.0)))
    torch.testing.assert_close(info_nce(pair, pair, 0, 0.2), expected.expand(2, 1))
    joined = torch.cat([pair.flip(0), pair])
    second = info_nce(pair, joined, 2, 0.2)
    torch.testing.assert_close(
        second, torch.log(2 + 2 * torch.exp(torch.tensor(-5.0))).expand(2, 1)
    )
    assert torch.equal(byol(torch.tensor([1.0, -1.0])), torch.tensor([0.0, 4.0]))


def test_the_spread_is_zero_for_a_collapsed_target():
    directions = nn.functional.normalize(torch.randn(64, 3, 32), dim=-1)
    assert spread(directions) > 0.9
    assert spread(directions[:1].expand(64, -1, -1)).abs() < 1e-6
