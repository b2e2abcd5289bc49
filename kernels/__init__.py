"""The seven ops of a masked-autoencoder step, usable alone: docs/kernels.md.

Each has a specification in `reference`, an implementation in torch and one in Triton. `impl` says
which runs: "auto" is Triton on CUDA and torch elsewhere, or what `prefer` was told.
"""

from fastimae.kernels._launch import prefer
from fastimae.kernels.assemble_tokens import assemble_tokens
from fastimae.kernels.attention import attention
from fastimae.kernels.latent_l2 import latent_l2
from fastimae.kernels.masked_l2 import masked_l2
from fastimae.kernels.mix_patchify import mix_patchify
from fastimae.kernels.mixing_ratio import mixing_ratio
from fastimae.kernels.random_masking import Mask, random_masking

__all__ = [
    "random_masking",
    "mixing_ratio",
    "mix_patchify",
    "assemble_tokens",
    "masked_l2",
    "latent_l2",
    "attention",
    "Mask",
    "prefer",
]
