"""The ops of a masked-autoencoder training step, usable on their own (docs/kernels.md).

Each op has a specification in `reference`, an implementation in torch and one in Triton. `impl`
selects one: "auto" means Triton on CUDA and torch elsewhere, unless `set_default_impl` changed it.
"""

from fastimae.kernels._launch import set_default_impl
from fastimae.kernels.add_norm import add_norm
from fastimae.kernels.assemble_tokens import assemble_tokens
from fastimae.kernels.attention import attention
from fastimae.kernels.color_jitter import color_jitter, jitter_factors
from fastimae.kernels.crop_resize import crop_resize
from fastimae.kernels.draw_windows import draw_windows
from fastimae.kernels.jitter_patchify import jitter_patchify
from fastimae.kernels.latent_l2 import latent_l2
from fastimae.kernels.masked_l2 import masked_l2
from fastimae.kernels.mix_patchify import mix_patchify
from fastimae.kernels.mixing_ratio import mixing_ratio
from fastimae.kernels.mlp import mlp
from fastimae.kernels.pair_l2 import pair_l2
from fastimae.kernels.pixel_store import PixelStore
from fastimae.kernels.random_masking import Mask, random_masking
from fastimae.kernels.resize_taps import ResizeTaps, resize_taps

__all__ = [
    "draw_windows",
    "crop_resize",
    "random_masking",
    "mixing_ratio",
    "mix_patchify",
    "jitter_factors",
    "color_jitter",
    "jitter_patchify",
    "assemble_tokens",
    "add_norm",
    "masked_l2",
    "latent_l2",
    "pair_l2",
    "attention",
    "mlp",
    "Mask",
    "PixelStore",
    "ResizeTaps",
    "resize_taps",
    "set_default_impl",
]
