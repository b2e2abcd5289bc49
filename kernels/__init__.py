"""The six ops of a masked-autoencoder step, usable alone.

This version runs each in torch; `reference` is their specification.
"""

from fastimae.kernels.attention import attention, cross_attention
from fastimae.kernels.random_masking import Mask, random_masking
from fastimae.kernels.reference import assemble_tokens, latent_l2, masked_l2, mix_patchify

__all__ = [
    "random_masking",
    "mix_patchify",
    "assemble_tokens",
    "masked_l2",
    "latent_l2",
    "attention",
    "cross_attention",
    "Mask",
]
