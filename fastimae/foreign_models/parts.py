"""The kinds of modules that `accelerate` knows."""

from fastimae.foreign_models import huggingface_mae
from fastimae.foreign_models.attention_part import ATTENTION
from fastimae.foreign_models.block_part import BLOCK
from fastimae.foreign_models.huggingface_layer import LAYER
from fastimae.foreign_models.mae_parts import DECODER, ENCODER, LOSS, MASKING
from fastimae.foreign_models.mlp_part import MLP
from fastimae.foreign_models.part import Part

PARTS: tuple[Part, ...] = (
    *(huggingface_mae.EMBEDDINGS, huggingface_mae.DECODER, LAYER),
    *(MASKING, ENCODER, DECODER, LOSS, BLOCK, ATTENTION, MLP),
)
"""In this order: the first that recognises a method has it."""
