"""Hugging Face's ViTMAE and Pixio, from transformers."""

from __future__ import annotations

import functools
from typing import Any

from torch import Tensor, nn

from benchmarks.habits.base import Habit, Size


def vit_mae(size: Size, attention: str = "sdpa", **settings: Any) -> nn.Module:
    """Make ViTMAEForPreTraining. settings: of its config."""
    from transformers import ViTMAEConfig, ViTMAEForPreTraining

    config = ViTMAEConfig(
        **_encoder(size),
        intermediate_size=4 * size.width,
        decoder_hidden_size=size.decoder_width,
        decoder_num_hidden_layers=size.decoder_depth,
        decoder_num_attention_heads=size.decoder_heads,
        decoder_intermediate_size=4 * size.decoder_width,
        attn_implementation=attention,
        **settings,
    )
    return ViTMAEForPreTraining(config)


def pixio(size: Size, **settings: Any) -> nn.Module:
    """Make PixioModel, an encoder with several class tokens. settings: of its config."""
    from transformers import PixioConfig, PixioModel

    config = PixioConfig(
        **_encoder(size),
        mlp_ratio=4,
        n_cls_tokens=8,
        attn_implementation="sdpa",
        **settings,
    )
    return PixioModel(config)


def _encoder(size: Size) -> dict[str, int]:
    """Return what configs of transformers call the sizes of an encoder."""
    return {
        "image_size": size.img_size,
        "patch_size": size.patch_size,
        "hidden_size": size.width,
        "num_hidden_layers": size.depth,
        "num_attention_heads": size.heads,
    }


def pretrained(model: nn.Module, imgs: Tensor) -> tuple[Tensor, ...]:
    """Return loss, predictions, mask."""
    outputs = model(imgs)
    return outputs.loss, outputs.logits, outputs.mask


def pooled(model: nn.Module, imgs: Tensor) -> tuple[Tensor, ...]:
    """Fine-tune an encoder without a head: the mean square of its mean class token."""
    outputs = model(imgs)
    return outputs.pooler_output.square().mean(), outputs.last_hidden_state


HABITS = (
    Habit("Hugging Face ViTMAE", vit_mae, pretrained, "transformers"),
    Habit(
        "Hugging Face ViTMAE, eager, norm_pix_loss",
        functools.partial(vit_mae, attention="eager", norm_pix_loss=True),
        pretrained,
        "transformers",
    ),
    Habit("Hugging Face Pixio, encoder", pixio, pooled, "transformers"),
)
