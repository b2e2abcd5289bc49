"""What an encoder sees in whole images: its tokens, or one vector per image, of any layers.

B = batch, H, W, C = image rows, columns, channels, L = patches of an image, n = class tokens,
D = encoder width.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal

from torch import Tensor, nn

from fastimae.kernels import Mask
from fastimae.models.vit import block_outputs

if TYPE_CHECKING:
    from fastimae.models.mae import MaskedAutoencoder

Pool = Literal["tokens", "cls", "mean"]
NO_TOKEN_NORM = (
    "this model was fine-tuned on the mean of its patches, and has no norm for its class token"
)


def forward_features(
    model: MaskedAutoencoder,
    imgs: Tensor,
    pool: Pool,
    layers: Sequence[int] | None,
    norm: bool,
) -> Tensor | list[Tensor]:
    """Compute `MaskedAutoencoder.forward_features`, which has the documentation."""
    if pool not in ("tokens", "cls", "mean"):
        raise ValueError(f"pool must be tokens, cls or mean, not {pool!r}")
    if pool == "cls" and norm and lacks_token_norm(model):
        raise ValueError(f"pool='cls': {NO_TOKEN_NORM}: use pool='mean'")
    x_BND = embed_all(model, imgs)
    depth = len(model.blocks)
    wanted = block_numbers([-1] if layers is None else layers, depth)
    last_norm = model.norm if norm else nn.Identity()
    outputs = {
        number: pool_tokens(model, output_BND, pool, norm)
        for number, output_BND in block_outputs(model.blocks, last_norm, x_BND, wanted)
    }
    return outputs[depth - 1] if layers is None else [outputs[number] for number in wanted]


def lacks_token_norm(model: MaskedAutoencoder) -> bool:
    """Return whether the model was fine-tuned on the mean of its patches, and only norms that."""
    return isinstance(model.norm, nn.Identity)


def all_visible(model: MaskedAutoencoder, imgs: Tensor) -> Mask:
    """Return the mask that hides no patch of the images, [B, ...]."""
    return Mask.of_nothing(len(imgs), model.grid[0] * model.grid[1], imgs.device)


def embed_all(model: MaskedAutoencoder, imgs: Tensor) -> Tensor:
    """Embed all patches of images, and the class tokens: [B, n + L, D]."""
    if not isinstance(imgs, Tensor):
        raise TypeError(f"imgs must be a tensor, not {type(imgs).__name__}")
    images = model.channels_last(imgs)
    mask = all_visible(model, images)
    (patches_BLV,) = model.visible_patches(images, mask)
    return model.embed(patches_BLV, mask.ids_keep)


def block_numbers(layers: Sequence[int], depth: int, argument: str = "layers") -> list[int]:
    """Return the numbers of blocks from 0; negative ones count from the last block, as -1.

    depth: blocks that there are. argument: name for the ValueError about a block that there is not.
    """
    for layer in layers:
        if not -depth <= layer < depth:
            raise ValueError(f"{argument}: there is no block {layer}, only {-depth} to {depth - 1}")
    return [layer % depth for layer in layers]


def pool_tokens(model: MaskedAutoencoder, x_BND: Tensor, pool: Pool, norm: bool = True) -> Tensor:
    """Return tokens as they are, or one vector of each image, [B, D]: see `forward_features`."""
    if pool == "tokens":
        return x_BND
    if pool == "cls":
        return class_token_of(x_BND, model.class_tokens)
    mean_BD = x_BND[:, model.class_tokens :].mean(1)
    return model.fc_norm(mean_BD) if norm and hasattr(model, "fc_norm") else mean_BD


def class_token_of(x_BND: Tensor, class_tokens: int) -> Tensor:
    """Return the class token of each image, or the mean of its class tokens (Pixio), [B, D]."""
    return x_BND[:, 0] if class_tokens == 1 else x_BND[:, :class_tokens].mean(1)
