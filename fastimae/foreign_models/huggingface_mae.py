"""Hugging Face's ViTMAE around its layers: masks and visible patches, and the decoder's input.

Masks are drawn as it draws them, so they are the same with the same state of torch's generator. The
loss stays its own: it is in the whole model's forward, of which it is too small a share to pay.
B = batch, C, H, W = channels, rows and columns of images, L = patches, K = visible patches,
D, E = widths of encoder and decoder.
"""

from __future__ import annotations

import sys
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fastimae import kernels
from fastimae.foreign_models.huggingface import library_preconditions
from fastimae.foreign_models.huggingface_layer import returned
from fastimae.foreign_models.part import Part
from fastimae.foreign_models.preconditions import Preconditions
from fastimae.kernels import mix_patchify


def _has(module: nn.Module, *names: str) -> str | None:
    """Return "forward" if the module has all these parts, parameters or methods."""
    return "forward" if all(hasattr(module, name) for name in names) else None


def _recognise_embeddings(module: nn.Module) -> str | None:
    names = "patch_embeddings", "position_embeddings", "cls_token", "random_masking"
    settings = "projection", "image_size", "num_channels", "num_patches"
    return _has(module, *names) and _has(module.patch_embeddings, *settings)


def _of_embeddings(module: Any, method: str) -> Preconditions:
    patches = module.patch_embeddings
    if type(patches.projection) is not nn.Conv2d or module.cls_token.shape[1] != 1:
        raise ValueError("its patches are not embedded by a Conv2d, after one class token")
    return library_preconditions(
        module, ("forward", "random_masking"), bypassed=(patches, patches.projection)
    )


def _kept(module: Any) -> int:
    """Return K."""
    return int(module.patch_embeddings.num_patches * (1 - module.config.mask_ratio))


def _fits_embeddings(module: Any, pixel_values: Tensor, noise: Any, interpolate: Any) -> bool:
    patches = module.patch_embeddings
    shape = (patches.num_channels, *patches.image_size)
    some = 0 < _kept(module) < patches.num_patches
    usual = pixel_values.shape[1:] == shape and not pixel_values.requires_grad
    return some and usual and not interpolate


def _embeddings(module: Any, pixel_values: Tensor, noise: Tensor | None, _: Any) -> tuple:
    """Embed the visible patches of pixel_values [B, C, H, W]: [B, 1 + K, D], mask, ids_restore."""
    projection, keep = module.patch_embeddings.projection, _kept(module)
    if noise is None:
        length = module.patch_embeddings.num_patches
        noise = torch.rand(len(pixel_values), length, device=pixel_values.device)
    ids_shuffle = torch.argsort(noise, dim=1)
    ids_restore = torch.argsort(ids_shuffle, dim=1)
    ids_keep, images = ids_shuffle[:, :keep], pixel_values.permute(0, 2, 3, 1)
    side = projection.kernel_size[0]
    (patches,) = mix_patchify(images, ids_keep, side, (), (), dtype=pixel_values.dtype)
    x = F.linear(patches, projection.weight.permute(0, 2, 3, 1).flatten(1), projection.bias)
    x = x + F.embedding(ids_keep, module.position_embeddings[0, 1:])
    first = module.cls_token + module.position_embeddings[:, :1]
    mask = (ids_restore >= keep).to(torch.get_default_dtype())
    return torch.cat((first.expand(len(x), -1, -1), x), dim=1), mask, ids_restore


def _recognise_decoder(module: nn.Module) -> str | None:
    names = ("decoder_embed", "decoder_layers", "decoder_norm", "decoder_pred")
    return _has(module, "mask_token", "decoder_pos_embed", *names)


def _of_decoder(module: Any, method: str) -> Preconditions:
    found = library_preconditions(module)
    found.containers.append((module, "decoder_layers"))
    return found


def _fits_decoder(module: Any, x: Tensor, ids_restore: Tensor, interpolate: Any) -> bool:
    return not interpolate and ids_restore.shape[1] == module.decoder_pos_embed.shape[1] - 1


def _decoder(module: Any, x: Tensor, ids_restore: Tensor, _: Any) -> Any:
    """Predict all patches from x [B, 1 + K, D]; one kernel assembles the decoder's input."""
    x = module.decoder_embed(x).to(module.mask_token.dtype)
    x = kernels.assemble_tokens(x, module.mask_token, module.decoder_pos_embed, ids_restore)
    for layer in module.decoder_layers:
        x = layer(x)
        x = x[0] if isinstance(x, tuple) else x
    logits = module.decoder_pred(module.decoder_norm(x))[:, 1:]
    return _output_class(module)(logits=logits)


def _output_class(module: nn.Module) -> Any:
    """Return ViTMAEDecoderOutput, which is defined beside the decoder."""
    homes = (sys.modules[kind.__module__] for kind in type(module).__mro__)
    return next(home.ViTMAEDecoderOutput for home in homes if hasattr(home, "ViTMAEDecoderOutput"))


EMBEDDINGS = Part(
    name="Hugging Face embeddings",
    recognise=_recognise_embeddings,
    arguments=3,
    replacement=_embeddings,
    preconditions=_of_embeddings,
    fits=_fits_embeddings,
)
DECODER = Part(
    name="Hugging Face decoder",
    recognise=_recognise_decoder,
    arguments=3,
    replacement=_decoder,
    preconditions=_of_decoder,
    fits=_fits_decoder,
    kept=("decoder_layers.",),
    passed=returned,
)
