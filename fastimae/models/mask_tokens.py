"""Mask tokens at an encoder's input, in the place of masked patches (BEiT's and SimMIM's way).

B = batch, L = patches of an image, K = visible patches, n = class tokens, V = values of a patch,
D = encoder width.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from fastimae.kernels import Mask, assemble_tokens
from fastimae.models.encoder import TOKEN_STD
from fastimae.models.mae import MaskedAutoencoder


class MaskToken(nn.Module):
    """A learnable token of an encoder's width, `weight` [1, 1, D].

    It is no part of the encoder, whose weights are thus those of any other. A checkpoint of C-MAE
    has it as content["objective"]["mask_token.weight"].
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(1, 1, width))
        nn.init.normal_(self.weight, std=TOKEN_STD)


def encode_with_mask_tokens(
    encoder: MaskedAutoencoder,
    mask_token: Tensor,
    patches: Tensor,
    mask: Mask,
    key: Tensor | None = None,
) -> Tensor:
    """Encode visible patches [B, K, V] and mask tokens to latents [B, n + L, D].

    Class tokens come first. mask_token: [1, 1, D], as in `MaskToken`. key: see `Encoder.encode`.
    The latents have passed the encoder's last norm. With a mask that hides nothing they are those
    of `encoder.encode`.
    """
    return encoder.run(embed_with_mask_tokens(encoder, mask_token, patches, mask), key)


def embed_with_mask_tokens(
    encoder: MaskedAutoencoder, mask_token: Tensor, patches: Tensor, mask: Mask
) -> Tensor:
    """Return the encoder's input [B, n + L, D]; every patch has its position. See above."""
    x_BKD = encoder.patch_embed(patches)
    cls_BnD = encoder.cls_token.to(x_BKD.dtype).expand(len(x_BKD), -1, -1)
    tokens_BND = torch.cat([cls_BnD, x_BKD], dim=1)
    return assemble_tokens(tokens_BND, mask_token, encoder.pos_embed, mask.ids_restore)
