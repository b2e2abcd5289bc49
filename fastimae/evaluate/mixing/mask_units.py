"""Mask units in evaluation: masks consist of the squares that a model was trained with."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from fastimae.evaluate.candidates import Candidate
from fastimae.kernels.random_masking import masked_share, visible_patches
from fastimae.log import log
from fastimae.models import MaskedAutoencoder
from fastimae.objectives.settings import mask_unit
from fastimae.settings import ConfigError


def trained_mask_size(candidate: Candidate) -> int:
    """Return the --mask_patch_size of a training, in pixels.

    A patch if the checkpoint does not say. It need not fit the model's images, which may have
    another size now.
    """
    size = candidate.args.get("mask_patch_size")
    return size if isinstance(size, int) and size > 0 else candidate.model.patch_size


def mask_unit_of(candidate: Candidate, mask_patch_size: int | None) -> int:
    """Return the side, in patches, of the squares that are masked as a whole for a model.

    mask_patch_size: in pixels, as the user asks for; None: as in the training, and one patch if the
    checkpoint does not say. Raises ConfigError for squares that the model's images do not consist
    of.
    """
    model = candidate.model
    try:
        unit = mask_unit(mask_patch_size or trained_mask_size(candidate), model.patch_size)
    except ConfigError as error:
        raise ConfigError(f"{candidate.path}: {error}{_instead(mask_patch_size)}") from None
    down, across = model.grid
    if down % unit or across % unit:
        height, width = model.img_size
        raise ConfigError(
            f"{candidate.path}: its images of {height} x {width} pixels do not consist of squares "
            f"of --mask_patch_size {unit * model.patch_size}{_instead(mask_patch_size)}"
        )
    return unit


def warn_of_other_units(
    candidates: Sequence[Candidate], unit: int, mask_patch_size: int | None
) -> None:
    """Warn of each model that was trained with another mask unit than all are measured with.

    unit: in patches, of which all models have the same size. Silent if the user asks for
    mask_patch_size.
    """
    for candidate in candidates if mask_patch_size is None else ():
        if (trained := mask_unit_of(candidate, None)) != unit:
            size = candidate.model.patch_size
            log.warning(
                "%s was trained with --mask_patch_size %d, and is measured with %d, as all rows",
                candidate.path, trained * size, unit * size,
            )  # fmt: skip


def check_masks(model: MaskedAutoencoder, ratios: Sequence[float], flag: str, unit: int) -> None:
    """Raise ConfigError for a ratio that masks all patches of a model, or none; 0 is allowed."""
    for ratio in filter(None, ratios):
        try:
            visible_patches(model.grid, ratio, unit)
        except ValueError:
            rows, columns = (side // unit for side in model.grid)
            what = "patches" if unit == 1 else f"squares of {unit * model.patch_size} pixels"
            raise ConfigError(
                f"{flag} {ratio:g} leaves all or none of the {rows} x {columns} {what} visible"
            ) from None


def mask_columns(model: MaskedAutoencoder, mask_ratio: float, unit: int) -> dict[str, Any]:
    """Return the columns of a table that say how images were masked.

    "masked" is the realised share, "mask_patch_size" the side of the units in pixels, None where
    nothing is masked.
    """
    return {
        "masked": masked_share(model.grid, mask_ratio, unit),
        "mask_patch_size": unit * model.patch_size if mask_ratio else None,
    }


def _instead(mask_patch_size: int | None) -> str:
    return "" if mask_patch_size else ", which it was trained with: give another"
