"""Several class tokens (Pixio) against the float64 oracle: losses, gradients, features, figures."""

import oracle
import pytest
import torch
from tiny import HEADS, tiny_model

from fastimae.evaluate.figures.attention_maps import attention_maps, measure, recorded_qkv
from fastimae.evaluate.figures.occlusion import block_tokens, compared
from fastimae.models.flops import training_flops
from fastimae.objectives import IMAE, MAE
from fastimae.objectives.cmae import CMAE, chosen_tokens
from fastimae.objectives.settings import CMAESettings
from fastimae.settings import ConfigError

COUNT, GRID = 3, (4, 4)
ORACLE = {"patch": 8, "heads": HEADS, "decoder_heads": HEADS, "norm_pix": False}


def model(**overrides):
    """Make a model whose class tokens have positions, as those of a loaded file may."""
    made = tiny_model(class_tokens=COUNT, **overrides)
    positions = [made.pos_embed, *([made.decoder_pos_embed] if made.has_decoder else [])]
    for each in positions:
        assert not each[:, :COUNT].any() and each[:, COUNT:].any(-1).all()
        each.data[:, :COUNT] = torch.randn(COUNT, each.shape[2])
    return made


def check_gradients(module, state):
    for name, parameter in module.named_parameters():
        if parameter.requires_grad:
            torch.testing.assert_close(
                parameter.grad.double(), state[name].grad, rtol=1e-4, atol=1e-6, msg=name
            )


@pytest.mark.parametrize("decoder", ["self", "cross"])
@pytest.mark.parametrize("mask_ratio", [0.75, 0.25])  # mask tokens shared, and not
def test_maes_loss_is_the_oracles(make_batch, mask_ratio, decoder):
    batch, student = make_batch(3, (32, 32)), model(decoder_attention=decoder)
    objective = MAE(student, mask_ratio=mask_ratio)
    loss = objective(batch)["loss"]
    loss.backward()
    state, visible = oracle.float64(student.state_dict()), objective.draw_mask(batch.key).ids_keep
    statistics = {"mean": student.mean, "std": student.std}
    wanted = oracle.mae_loss(batch.images, visible.tolist(), state, **ORACLE, **statistics)
    wanted.backward()
    assert loss.item() == pytest.approx(wanted.item(), rel=1e-6)
    check_gradients(student, state)


def test_imaes_losses_are_the_oracles(make_batch):
    batch, student, teacher = make_batch(3, (32, 32)), model(heads=2), model()
    objective = IMAE(student, teacher, mask_ratio=0.75)
    got = objective(batch)
    state = oracle.float64(student.state_dict())
    wanted = oracle.imae_parts(
        batch.images, batch.partner, objective.ratio(batch.key, batch.step_key).double(),
        objective.draw_mask(batch).ids_keep.tolist(), state, oracle.float64(teacher.state_dict()),
        mean=student.mean, std=student.std, head_space="decoder", teacher_view="clean", **ORACLE,
    )  # fmt: skip
    for name, part in wanted.items():
        assert got[name].item() == pytest.approx(part.item(), rel=1e-5), name
    with pytest.raises(ConfigError, match=r"different number of class tokens \(1\).*class_tokens"):
        IMAE(student, tiny_model(), mask_ratio=0.75)


def test_features_are_means_of_class_tokens_and_of_patches(make_batch):
    images, student = make_batch(2, (32, 32)).images, model()
    state, everything = oracle.float64(student.state_dict()), list(range(16))
    with torch.no_grad():
        tokens, cls, mean = (
            student.forward_features(images, pool) for pool in ("tokens", "cls", "mean")
        )
    for row, image in enumerate(images):
        patches = oracle.patches_of(oracle.normalised(image, student.mean, student.std), 8)
        wanted = oracle.encode(patches, everything, state, HEADS).detach().float()
        torch.testing.assert_close(tokens[row], wanted, rtol=0, atol=1e-5)
        torch.testing.assert_close(cls[row], wanted[:COUNT].mean(0), rtol=0, atol=1e-5)
        torch.testing.assert_close(mean[row], wanted[COUNT:].mean(0), rtol=0, atol=1e-5)


@pytest.mark.parametrize("tokens", ["patch", "cls", "average", "both"])
def test_cmae_contrasts_the_same_places_of_both_views(make_batch, tokens):
    """Without mask tokens, the first view's tokens are a part of the second's, at their places."""
    settings = CMAESettings(
        tokens=tokens, encoder_mask_tokens=False, second_view="full", proj_hidden_dim=8, proj_dim=6,
        color_jitter=0.0,
    )  # fmt: skip
    objective = CMAE(model(decoder=False), settings)
    batch, seen = make_batch(3, (32, 32)), {}
    mask = objective.draw_masks(batch.key)[0]
    objective._info_nce = lambda online, target, ids: (
        seen.update(online=online, target=target, ids=ids) or torch.zeros(online.shape[:2])
    )
    objective(batch)
    places = {"patch": 4, "cls": 1, "average": 1, "both": COUNT + 4}[tokens]
    assert seen["online"].shape == (3, places, 6)
    if tokens == "both":
        wanted = [[*range(COUNT), *(COUNT + i for i in row)] for row in mask.ids_keep.tolist()]
        assert seen["ids"][..., 0].tolist() == wanted
    projected, latent = torch.randn(2, COUNT + 16, 4), objective.student
    chosen = chosen_tokens(projected, tokens, latent.class_tokens)
    first, patches = projected[:, :COUNT], projected[:, COUNT:]
    expected = {"patch": patches, "cls": first.mean(1, True), "average": patches.mean(1, True)}
    assert torch.equal(chosen, expected.get(tokens, projected))


def test_similarity_leaves_all_class_tokens_out(make_batch):
    images, student = make_batch(2, (32, 32)).images, model()
    mask = MAE(student, mask_ratio=0.75).draw_mask(torch.arange(2))
    tokens = next(block_tokens(student, images, mask))
    whole = torch.randn(2, COUNT + 16, 32)
    assert tokens.shape == (2, COUNT + 4, 32)
    masked_cls, whole_cls = compared(tokens, whole, mask, "cls")
    assert torch.equal(masked_cls, tokens[:, :COUNT].mean(1))
    assert torch.equal(whole_cls, whole[:, :COUNT].mean(1))
    seen, same = compared(tokens, whole, mask, "tokens")
    assert torch.equal(seen, tokens[:, COUNT:].flatten(0, 1))
    patches = [whole[b, COUNT + i] for b in range(2) for i in mask.ids_keep[b].tolist()]
    assert torch.equal(same, torch.stack(patches))


def test_attention_of_class_tokens_is_that_of_one(make_batch):
    images, student = make_batch(2, (32, 32)).images, model()
    found = attention_maps(student, images)[0]
    with recorded_qkv(student.blocks) as recorded, torch.no_grad():
        student.forward_features(images)
    q, k, _ = recorded[0].double().unflatten(-1, (3, HEADS, -1)).permute(2, 0, 3, 1, 4)
    whole = (q @ k.transpose(-2, -1) / q.shape[-1] ** 0.5).softmax(-1).float()
    assert found.shape == (2, HEADS, 17, 17)
    torch.testing.assert_close(found.sum(-1), torch.ones(2, HEADS, 17))
    torch.testing.assert_close(found[:, :, 0, 1:], whole[:, :, :COUNT, COUNT:].mean(2))
    torch.testing.assert_close(found[:, :, 1:, 1:], whole[:, :, COUNT:, COUNT:])
    assert measure(found, 0, GRID, 0.6)["patch_share"].le(1).all()


def test_operations_are_those_of_as_many_tokens():
    """A class token costs what a patch does in blocks and heads, but is neither embedded nor
    predicted."""
    one, three = tiny_model(), tiny_model(class_tokens=COUNT)
    blocks = [*one.blocks, *one.decoder_blocks]
    more = 0
    for block, tokens in zip(blocks, (4, 4, *[16] * len(one.decoder_blocks)), strict=True):
        weights = sum(p.numel() for p in block.parameters() if p.ndim == 2)
        more += 2 * (COUNT - 1) * weights
        more += 4 * 32 * ((COUNT + tokens) ** 2 - (1 + tokens) ** 2)
    more += 2 * (COUNT - 1) * one.decoder_embed.weight.numel()
    assert training_flops(three, 4) - training_flops(one, 4) == 3 * more


def test_there_is_at_least_one():
    with pytest.raises(ValueError, match="class_tokens must be 1 or more"):
        tiny_model(class_tokens=0)
