"""Positions of images of another size than a model was made for."""

import copy
import pickle

import pytest
import torch
from tiny import predict_alike, tiny_model

from fastimae.engine.precision import weights_cast_to
from fastimae.models.positions import at_grid
from fastimae.models.vit import sincos_positions

KINDS = {
    "MAE's": {},
    "Pixio's": {"class_tokens": 3},
    "CrossMAE's": {"decoder_attention": "cross", "class_tokens": 2},
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("size", [(32, 32), (16, 48), (64, 32)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_model_at_another_size_is_the_model_of_that_size(size, dtype, kind):
    """It predicts the same bits, in any format; its state dict and parameters stay as they were."""
    model = tiny_model(img_size=48, **KINDS[kind])
    before = {name: value.clone() for name, value in model.state_dict().items()}
    model.set_image_size(size)
    assert model.state_dict().keys() == before.keys()
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert (model.img_size, model.grid, model.made_for) == (
        size,
        (size[0] // 8, size[1] // 8),
        (48, 48),
    )
    own = tiny_model(img_size=size, **KINDS[kind])
    positions = ("pos_embed", "decoder_pos_embed")
    weights = {name: value for name, value in before.items() if name not in positions}
    own.load_state_dict(weights, strict=False)
    images = torch.randint(0, 256, (2, *size, 3), dtype=torch.uint8)
    outputs = []
    for each in (own, model, copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        with weights_cast_to(each, dtype):
            assert each.pos_embed.dtype == each.decoder_pos_embed.dtype == dtype
            torch.manual_seed(1)
            outputs.append(each(images)[1])
        assert each.pos_embed.dtype == torch.float32
    assert all(torch.equal(output, outputs[0]) for output in outputs)


def test_a_model_comes_back_to_its_own_size():
    model, same = tiny_model(), tiny_model()
    same.load_state_dict(model.state_dict())
    model.set_image_size((16, 16))
    model.set_image_size((32, 32))
    assert model.pos_embed is dict(model.named_parameters())["pos_embed"]
    assert predict_alike(model, same)


def test_weights_loaded_at_another_size_are_those_of_the_models_own(tmp_path):
    first, second = tiny_model(), tiny_model()
    second.set_image_size((16, 16))
    second.load_state_dict(first.state_dict())
    second.set_image_size((32, 32))
    assert predict_alike(first, second)


def test_learned_positions_are_resized_as_timm_does():
    """Whatever sizes came before; several class tokens keep theirs."""
    timm = pytest.importorskip("timm.layers")
    model = tiny_model()
    torch.nn.init.normal_(model.pos_embed)
    learned = model.pos_embed.detach().clone()
    for size in ((16, 16), (64, 32), (48, 48)):
        model.set_image_size(size)
    expected = timm.resample_abs_pos_embed(learned, new_size=[6, 6], old_size=[4, 4])
    assert torch.equal(model.pos_embed, expected)
    assert torch.equal(model.decoder_pos_embed, sincos_positions(32, (6, 6)))
    several = torch.cat([torch.randn(1, 3, 32), learned[:, 1:]], dim=1)
    wider, how = at_grid(several, (4, 4), (6, 6))
    assert how == "resized"
    assert torch.equal(wider[:, :3], several[:, :3]) and torch.equal(wider[:, 3:], expected[:, 1:])


def test_positions_in_bf16_are_made_anew():
    """Rounded to that format, they are those of a teacher that was cast."""
    rounded = sincos_positions(64, (4, 4)).bfloat16()
    assert torch.equal(at_grid(rounded, (4, 4), (3, 2))[0], sincos_positions(64, (3, 2)).bfloat16())


def test_a_size_that_patches_do_not_divide_is_an_error():
    with pytest.raises(ValueError, match="30x32 is not a multiple of the patch size 8"):
        tiny_model().set_image_size((30, 32))
