"""The four methods of MAE and its forks: masking, encoder, decoder, loss, under any known name."""

from __future__ import annotations

import inspect
from collections.abc import Callable

from torch import nn

from fastimae.foreign_models import mae_methods as methods
from fastimae.foreign_models import mae_proofs as proofs
from fastimae.foreign_models.part import Part
from fastimae.foreign_models.static_analysis import PATCHES, Role, analysed
from fastimae.kernels import drop_in

_READ = {
    "random_masking": (),
    "forward_encoder": ("patch_embed", "pos_embed", "cls_token", "blocks", "norm"),
    "forward_decoder": ("mask_token", "decoder_embed", "decoder_pos_embed", "decoder_blocks",
                        "decoder_norm", "decoder_pred"),
    "forward_loss": ("patch_embed",),
}  # fmt: skip
"""What our method reads of the module."""


def _recogniser(method: str) -> Callable[[nn.Module], str | None]:
    """Recognise a method by its names; under a fork's name, only if the module is like a MAE."""

    def recognise(module: nn.Module) -> str | None:
        present = [n for n in methods.NAMES[method] if callable(getattr(type(module), n, None))]
        if not present or isinstance(module, (nn.ModuleList, nn.Sequential)):
            return None
        if present[0] != method and not hasattr(module, "mask_token"):
            return None
        if lacking := [name for name in _READ[method] if not hasattr(module, name)]:
            raise TypeError(f"{type(module).__name__} has no {', '.join(lacking)}")
        for name in _READ[method]:
            if name.endswith("blocks"):
                _check_blocks(getattr(module, name))
        return present[0]

    return recognise


def _check_blocks(blocks: nn.Module) -> None:
    """Raise TypeError if a block needs more than the tokens, such as those of cross attention."""
    for block in blocks.children():
        _, *needed = inspect.signature(block.forward).parameters.values()
        for each in needed:
            if each.default is each.empty and each.kind is each.POSITIONAL_OR_KEYWORD:
                raise TypeError(f"{type(block).__name__} takes {each.name}, too: ours has none")


MASKING = Part(
    name="random_masking",
    recognise=_recogniser("random_masking"),
    arguments=2,
    replacement=methods.random_masking,
    preconditions=analysed(Role(shared=("mask_ratio",))),
    attributes=("mask_ratio",),
    fits=methods.fits_masking,
    prove=proofs.prove_random_masking,
    measured=False,
    used=methods.masks_are_used,
)
ENCODER = Part(
    name="forward_encoder",
    recognise=_recogniser("forward_encoder"),
    arguments=2,
    replacement=methods.forward_encoder,
    preconditions=analysed(
        Role(
            shared=(
                *methods.NAMES["random_masking"],
                *("cls_token", "pos_embed", "norm", "mask_ratio"),
            ),
            containers=("blocks",),
            bypassed={"patch_embed": PATCHES},
        )
    ),
    attributes=("mask_ratio",),
    fits=methods.fits_encoder,
    prove=proofs.prove_encoder,
    kept=("blocks.",),
)
DECODER = Part(
    name="forward_decoder",
    recognise=_recogniser("forward_decoder"),
    arguments=2,
    replacement=methods.forward_decoder,
    preconditions=analysed(
        Role(
            shared=(*(n for n in _READ["forward_decoder"] if n != "decoder_blocks"), "cls_token"),
            containers=("decoder_blocks",),
        )
    ),
    fits=methods.fits_decoder,
    kept=("decoder_blocks.",),
)
LOSS = Part(
    name="forward_loss",
    recognise=_recogniser("forward_loss"),
    arguments=3,
    replacement=drop_in.forward_loss,
    preconditions=analysed(
        Role(shared=("norm_pix_loss",), needed=(("patch_embed", "patch_size"),))
    ),
    fits=methods.fits_loss,
    prove=proofs.prove_loss,
    kept=("",),
    multiplies=False,
)
