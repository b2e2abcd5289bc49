"""Sizes of a transformer: checks of them, and which blocks see a whole image."""

from __future__ import annotations

from fastimae.settings import ConfigError


def check_sizes(
    img_size: tuple[int, int], patch_size: int, width: int, num_heads: int, prefix: str = ""
) -> None:
    """Raise ValueError unless images consist of patches, and heads and positions fit the width.

    img_size: pixels (height, width). prefix: of the arguments' names, in the message.
    """
    check_image_size(img_size, patch_size)
    if width % num_heads:
        raise ValueError(
            f"{prefix}embed_dim {width} is not a multiple of {prefix}num_heads {num_heads}"
        )
    if width % 4:
        raise ValueError(f"{prefix}embed_dim {width} is not a multiple of 4")


def check_image_size(
    img_size: tuple[int, int], patch_size: int, flag: str = "--input_size"
) -> None:
    """Raise ConfigError, naming the flag, unless images (height, width) consist of patches."""
    if img_size[0] % patch_size or img_size[1] % patch_size:
        raise ConfigError(
            f"{flag} {img_size[0]}x{img_size[1]} is not a multiple of the patch size "
            f"{patch_size} of the --model"
        )


def global_blocks_of(depth: int) -> list[int]:
    """Return the numbers from 0 of ViTDet's blocks of global attention, among windowed ones.

    They are the last of each quarter of `depth` blocks: 2, 5, 8, 11 of 12 (Li et al., 2022).
    """
    return sorted({depth * quarter // 4 - 1 for quarter in range(1, 5)} - {-1})
