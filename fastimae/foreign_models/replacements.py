"""The methods that `accelerate` puts in place of a foreign MAE's, with the same meaning.

Each takes the module first, as the method does. Its `_fits_...` function decides whether it can
handle a call. All other calls go to the method that the class defines, and so do all calls once
the preconditions no longer hold.

B: batch, C: channels, H, W: height and width of images, N: patches, K: visible patches,
L: tokens, D: width.
"""

from __future__ import annotations

import dataclasses
import functools
import inspect
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fastimae import kernels
from fastimae.foreign_models.preconditions import Preconditions
from fastimae.foreign_models.static_analysis import find_preconditions
from fastimae.kernels import Mask, drop_in, mix_patchify
from fastimae.kernels.rows import visible_rows
from fastimae.log import log

_REPLICATE = "_replicate_for_data_parallel"


def random_masking(self: Any, x: Tensor, mask_ratio: float) -> tuple[Tensor, Tensor, Tensor]:
    """Mask x [B, N, D] with one of our masks, whose loss needs no counting of masked patches."""
    return masked_by(_draw(self, x, (1, x.shape[1]), mask_ratio), x)


def masked_by(drawn: Mask, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return what MAE's `random_masking` does: visible rows [B, K, D], mask, ids_restore int64."""
    return visible_rows(x, drawn), drawn.mask, drawn.ids_restore.long()


def forward_encoder(self: Any, imgs: Tensor, mask_ratio: float) -> tuple[Tensor, Tensor, Tensor]:
    """Encode imgs [B, C, H, W]; only the visible patches are embedded."""
    weight, bias = self.patch_embed.proj.weight, self.patch_embed.proj.bias
    patch_size = weight.shape[-1]
    images = imgs.permute(0, 2, 3, 1)
    grid = (images.shape[1] // patch_size, images.shape[2] // patch_size)
    drawn = _draw(self, imgs, grid, mask_ratio)
    (patches,) = mix_patchify(images, drawn.ids_keep, patch_size, (), (), dtype=imgs.dtype)
    x = F.linear(patches, weight.permute(0, 2, 3, 1).flatten(1), bias)
    x = x + F.embedding(drawn.ids_keep, self.pos_embed[0, 1:])
    cls_token = self.cls_token + self.pos_embed[:, :1]
    x = torch.cat((cls_token.expand(len(x), -1, -1), x), dim=1)
    for block in self.blocks:
        x = block(x)
    return self.norm(x), drawn.mask, drawn.ids_restore.long()


def forward_decoder(self: Any, x: Tensor, ids_restore: Tensor) -> Tensor:
    """Decode x [B, 1 + K, D]; one kernel assembles the input, in the mask token's number format."""
    x = self.decoder_embed(x).to(self.mask_token.dtype)
    x = kernels.assemble_tokens(x, self.mask_token, self.decoder_pos_embed, ids_restore)
    for block in self.decoder_blocks:
        x = block(x)
    return self.decoder_pred(self.decoder_norm(x))[:, 1:]


def attention(self: Any, x: Tensor) -> Tensor:
    """Compute multi-head attention on the packed projection of x [B, L, D]."""
    return self.proj(kernels.attention(self.qkv(x).unflatten(-1, (3, self.num_heads, -1))))


def _fits_masking(self: Any, x: Tensor, mask_ratio: float) -> bool:
    """Return whether some patches are masked: MAE is called with mask_ratio=0 for features."""
    return x.ndim == 3 and leaves_some(x.shape[1], mask_ratio)


def leaves_some(patches: int, mask_ratio: float) -> bool:
    """Return whether masking keeps at least one patch and removes at least one."""
    return isinstance(mask_ratio, float) and 0 < int(patches * (1 - mask_ratio)) < patches


def _fits_encoder(self: Any, imgs: Tensor, mask_ratio: float) -> bool:
    masks = self.__dict__.get("random_masking")
    ours = isinstance(masks, Replacement) and not masks.preconditions.change()
    some = leaves_some(self.pos_embed.shape[1] - 1, mask_ratio)
    return ours and some and not imgs.requires_grad


def _fits_loss(self: Any, imgs: Tensor, pred: Tensor, mask: Tensor) -> bool:
    """Return whether the mask is the last drawn one, unmodified, and pred covers all patches."""
    drawn = getattr(self, "_fastimae_mask", None)
    if drawn is None or drawn.mask is not mask or _version(mask) != self._fastimae_mask_version:
        return False
    patches = len(imgs), mask.shape[1], imgs.shape[1] * drop_in.patch_size_of(self) ** 2
    plain = isinstance(self.norm_pix_loss, bool) and not imgs.requires_grad
    return plain and pred.shape == patches


def _version(mask: Tensor) -> int:
    """Return how often the mask was modified in place.

    Tensors of inference mode do not count that, and compiled code cannot ask: 0 then.
    """
    return 0 if torch.compiler.is_compiling() or mask.is_inference() else mask._version


def _fits_decoder(self: Any, x: Tensor, ids_restore: Tensor) -> bool:
    return x.ndim == 3 and ids_restore.shape == (len(x), self.decoder_pos_embed.shape[1] - 1)


# Method -> (replacement, whether it can handle a call, number of arguments of both).
REPLACEMENTS: dict[str, tuple[Callable, Callable[..., bool], int]] = {
    "random_masking": (random_masking, _fits_masking, 2),
    "forward_encoder": (forward_encoder, _fits_encoder, 2),
    "forward_decoder": (forward_decoder, _fits_decoder, 2),
    "forward_loss": (drop_in.forward_loss, _fits_loss, 3),
    "forward": (attention, lambda self, x: x.ndim == 3, 1),  # of an attention module
}


@dataclasses.dataclass(eq=False)
class Replacement:
    """A replacement: an attribute of the module that hides the method `name` of its class.

    A plain object, so that modules can be copied and pickled with it. parameters: names and
    defaults of the method's parameters. image: shape that images must have, as in the trials.
    longest: longest sequence of the trials; calls with more tokens go to the original. path: the
    module's name in its model.
    """

    module: nn.Module
    name: str
    parameters: tuple[tuple[str, Any], ...]
    preconditions: Preconditions
    image: tuple[int, ...] | None = None
    longest: int | None = None
    path: str = ""
    warned: bool = False

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        replacement, fits, arity = REPLACEMENTS[self.name]
        given = dict(zip((name for name, _ in self.parameters), args, strict=False)) | kwargs
        values = [given.get(name, default) for name, default in self.parameters]
        extras = zip(values[arity:], self.parameters[arity:], strict=True)
        usual = all(value is default for value, (_, default) in extras)
        usual = usual and self._preconditions_hold(values[0])
        if usual and self._has_proven_size(values[0]) and fits(self.module, *values[:arity]):
            return replacement(self.module, *values[:arity])
        return self.original(*args, **kwargs)

    def _has_proven_size(self, x: Tensor) -> bool:
        if self.longest is not None and x.shape[1] > self.longest:
            return False
        return self.image in (None, tuple(x.shape[1:]))

    def _preconditions_hold(self, x: Any) -> bool:
        """Return whether everything is as in the trials; warn once if it is not."""
        change = self.preconditions.change() or self.preconditions.mismatch(x)
        if change and not self.warned and not torch.compiler.is_compiling():
            self.warned = True
            path = f"{self.path}.{self.name}".lstrip(".")
            log.warning("accelerate: %s runs the original method: %s", path, change)
        return not change

    @property
    def original(self) -> Callable:
        """The method that the class defines."""
        return functools.partial(getattr(type(self.module), self.name), self.module)

    def by_name(self, *values: Any) -> dict[str, Any]:
        """Return arguments as keywords, by the method's own names."""
        return {name: value for (name, _), value in zip(self.parameters, values, strict=False)}

    def install(self) -> None:
        """Replace the module's method; replicas of nn.DataParallel keep that of the class."""
        setattr(self.module, self.name, self)
        setattr(self.module, _REPLICATE, self.replicate)

    def remove(self) -> None:
        """Restore the method of the class."""
        self.module.__dict__.pop(self.name, None)
        self.module.__dict__.pop(_REPLICATE, None)

    def replicate(self) -> nn.Module:
        """Return what nn.DataParallel wants: a copy of the module for another device.

        A replacement would keep using this module's weights, so the copy has its class's methods.
        """
        replica = getattr(type(self.module), _REPLICATE)(self.module)
        for name, value in vars(self.module).items():
            if name == _REPLICATE or isinstance(value, Replacement):
                del replica.__dict__[name]
        return replica


def make_replacement(module: nn.Module, name: str, like: Tensor) -> Replacement:
    """Return a replacement for a method, not installed yet; extra parameters need defaults.

    like: see `find_preconditions`. Raises TypeError for another signature, or if the method is
    already replaced in the module itself; ValueError if the method does more than the replacement.
    """
    if name in module.__dict__:
        raise TypeError(f"{name} is already replaced in this object")
    preconditions = find_preconditions(module, name, like)
    _, *parameters = inspect.signature(getattr(type(module), name)).parameters.values()
    arity = REPLACEMENTS[name][2]
    variadic = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    needed = [p for p in parameters[arity:] if p.default is inspect.Parameter.empty]
    if len(parameters) < arity or needed or any(p.kind in variadic for p in parameters):
        raise TypeError(f"takes ({', '.join(map(str, parameters))})")
    known = tuple((p.name, p.default) for p in parameters)
    image = tuple(like.shape[1:]) if like.ndim == 4 else None
    return Replacement(module, name, known, preconditions, image)


def looks_like_attention(module: nn.Module) -> bool:
    """Return whether the module's class is called attention, or it has a packed projection."""
    return "attention" in type(module).__name__.lower() or hasattr(module, "qkv")


def check_attention(module: nn.Module) -> None:
    """Raise TypeError unless the module has timm's parts: qkv, proj and num_heads."""
    for name in ("qkv", "proj"):
        if not isinstance(getattr(module, name, None), nn.Linear):
            raise TypeError(f"{type(module).__name__} has no Linear called {name}")
    if not isinstance(getattr(module, "num_heads", None), int):
        raise TypeError(f"{type(module).__name__} has no num_heads")


def draw_key(x: Tensor) -> Tensor:
    """Draw a random key for each sample, from torch's generator of its device."""
    return torch.randint(2**62, (len(x),), device=x.device)


def _draw(self: Any, x: Tensor, grid: tuple[int, int], mask_ratio: float) -> Mask:
    self._fastimae_mask = drawn = kernels.random_masking(draw_key(x), grid, mask_ratio)
    self._fastimae_mask_version = _version(drawn.mask)
    if hasattr(self, "_fastimae_record"):
        self._fastimae_record.append(drawn)
    return drawn
