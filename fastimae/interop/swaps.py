"""What `accelerate` puts in the place of a foreign MAE's methods, with the same meaning.

Each takes the module first, as the method does. `fits` of the same name says whether a call is one
that the replacement serves; any other call goes to the method that the class defines, and so do
all where the model is not as it was (`watch`).
"""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fastimae import kernels
from fastimae.interop.reading import watch_of
from fastimae.interop.watch import Watch
from fastimae.kernels import Mask, drop_in, mix_patchify
from fastimae.kernels.rows import visible_rows
from fastimae.log import log

_REPLICATE = "_replicate_for_data_parallel"


def random_masking(self: Any, x: Tensor, mask_ratio: float) -> tuple[Tensor, Tensor, Tensor]:
    """A mask of our own draw, whose loss needs no counting."""
    return masked_by(_draw(self, x, (1, x.shape[1]), mask_ratio), x)


def masked_by(drawn: Mask, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """What MAE's `random_masking` returns, for a mask: visible rows, mask, ids_restore int64."""
    return visible_rows(x, drawn), drawn.mask, drawn.ids_restore.long()


def forward_encoder(self: Any, imgs: Tensor, mask_ratio: float) -> tuple[Tensor, Tensor, Tensor]:
    """The encoder, with only the visible patches embedded."""
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
    """The decoder, its input assembled in one pass, in the mask token's number format."""
    x = self.decoder_embed(x).to(self.mask_token.dtype)
    x = kernels.assemble_tokens(x, self.mask_token, self.decoder_pos_embed, ids_restore)
    for block in self.decoder_blocks:
        x = block(x)
    return self.decoder_pred(self.decoder_norm(x))[:, 1:]


def attention(self: Any, x: Tensor) -> Tensor:
    """Multi-head attention on the packed projection."""
    return self.proj(kernels.attention(self.qkv(x).unflatten(-1, (3, self.num_heads, -1))))


def _draws(self: Any, x: Tensor, mask_ratio: float) -> bool:
    """Some patches stay and some go: MAE is also called with mask_ratio=0, for features."""
    return x.ndim == 3 and leaves_some(x.shape[1], mask_ratio)


def leaves_some(patches: int, mask_ratio: float) -> bool:
    """Whether masking keeps a patch, and removes one."""
    return isinstance(mask_ratio, float) and 0 < int(patches * (1 - mask_ratio)) < patches


def _draws_of_images(self: Any, imgs: Tensor, mask_ratio: float) -> bool:
    masks = self.__dict__.get("random_masking")
    ours = isinstance(masks, Swap) and not masks.watch.change()
    some = leaves_some(self.pos_embed.shape[1] - 1, mask_ratio)
    return ours and some and not imgs.requires_grad


def _is_our_mask(self: Any, imgs: Tensor, pred: Tensor, mask: Tensor) -> bool:
    """The mask that was drawn last, as it was drawn, and a prediction of all patches."""
    drawn = getattr(self, "_fastimae_mask", None)
    if drawn is None or drawn.mask is not mask or _writes(mask) != self._fastimae_writes:
        return False
    patches = len(imgs), mask.shape[1], imgs.shape[1] * drop_in.patch_size_of(self) ** 2
    plain = isinstance(self.norm_pix_loss, bool) and not imgs.requires_grad
    return plain and pred.shape == patches


def _writes(mask: Tensor) -> int:
    """How often values of a mask were changed in their place. Tensors of inference mode do not
    count that, and compiled code cannot ask."""
    return 0 if torch.compiler.is_compiling() or mask.is_inference() else mask._version


def _restores(self: Any, x: Tensor, ids_restore: Tensor) -> bool:
    return x.ndim == 3 and ids_restore.shape == (len(x), self.decoder_pos_embed.shape[1] - 1)


# Method: the replacement, when it serves a call, how many arguments both take.
REPLACEMENTS: dict[str, tuple[Callable, Callable[..., bool], int]] = {
    "random_masking": (random_masking, _draws, 2),
    "forward_encoder": (forward_encoder, _draws_of_images, 2),
    "forward_decoder": (forward_decoder, _restores, 2),
    "forward_loss": (drop_in.forward_loss, _is_our_mask, 3),
    "forward": (attention, lambda self, x: x.ndim == 3, 1),  # of an attention module
}


@dataclasses.dataclass(eq=False)
class Swap:
    """A replacement as an attribute of the module, over the method `name` of its class.

    A plain object, so that modules can be copied and pickled with it. parameters: name and default
    of each of the method's. watch: what has to stay as it was. image: shape of an image in the
    trials, of which others must be. longest: sequence in the trials; others may be shorter.
    place: the module's name in its model.
    """

    module: nn.Module
    name: str
    parameters: tuple[tuple[str, Any], ...]
    watch: Watch
    image: tuple[int, ...] | None = None
    longest: int | None = None
    place: str = ""
    told: bool = False

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        ours, fits, arity = REPLACEMENTS[self.name]
        given = dict(zip((name for name, _ in self.parameters), args, strict=False)) | kwargs
        values = [given.get(name, default) for name, default in self.parameters]
        extras = zip(values[arity:], self.parameters[arity:], strict=True)
        usual = all(value is default for value, (_, default) in extras)
        usual = usual and self._holds(values[0])
        if usual and self._is_as_tried(values[0]) and fits(self.module, *values[:arity]):
            return ours(self.module, *values[:arity])
        return self.original(*args, **kwargs)

    def _is_as_tried(self, x: Tensor) -> bool:
        if self.longest is not None and x.shape[1] > self.longest:
            return False
        return self.image in (None, tuple(x.shape[1:]))

    def _holds(self, x: Any) -> bool:
        """Whether all is as it was when both sides were compared; says once what is not."""
        change = self.watch.change() or self.watch.move(x)
        if change and not self.told and not torch.compiler.is_compiling():
            self.told = True
            place = f"{self.place}.{self.name}".lstrip(".")
            log.warning("accelerate: %s runs the model's own method: %s", place, change)
        return not change

    @property
    def original(self) -> Callable:
        """The method that the class defines."""
        return getattr(type(self.module), self.name).__get__(self.module)

    def named(self, *values: Any) -> dict[str, Any]:
        """Arguments by the method's own names."""
        return {name: value for (name, _), value in zip(self.parameters, values, strict=False)}

    def install(self) -> None:
        """From now on the module's method is this, in replicas of nn.DataParallel the class's."""
        setattr(self.module, self.name, self)
        setattr(self.module, _REPLICATE, self.replicate)

    def remove(self) -> None:
        """The class's method again."""
        self.module.__dict__.pop(self.name, None)
        self.module.__dict__.pop(_REPLICATE, None)

    def replicate(self) -> nn.Module:
        """Stands for what nn.DataParallel calls for a copy of the module on another device: a swap
        would go on with this module's weights, so the copy has the methods of its class."""
        replica = getattr(type(self.module), _REPLICATE)(self.module)
        for name, value in vars(self.module).items():
            if name == _REPLICATE or isinstance(value, Swap):
                del replica.__dict__[name]
        return replica


def make_swap(module: nn.Module, name: str, like: Tensor) -> Swap:
    """A swap for a method with as many arguments and more only with defaults.

    like: see `watch_of`. Raises TypeError for another signature, and where the module has the
    method to itself; ValueError where the method does more than a replacement could know.
    """
    if name in module.__dict__:
        raise TypeError(f"{name} was replaced in this very object")
    watch = watch_of(module, name, like)
    _, *parameters = inspect.signature(getattr(type(module), name)).parameters.values()
    arity = REPLACEMENTS[name][2]
    variadic = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    needed = [p for p in parameters[arity:] if p.default is inspect.Parameter.empty]
    if len(parameters) < arity or needed or any(p.kind in variadic for p in parameters):
        raise TypeError(f"takes ({', '.join(map(str, parameters))})")
    known = tuple((p.name, p.default) for p in parameters)
    image = tuple(like.shape[1:]) if like.ndim == 4 else None
    return Swap(module, name, known, watch, image)


def looks_like_attention(module: nn.Module) -> bool:
    """Whether the module is called attention or has a packed projection."""
    return "attention" in type(module).__name__.lower() or hasattr(module, "qkv")


def check_attention(module: nn.Module) -> None:
    """Raise TypeError unless the module has timm's parts: qkv, proj and num_heads."""
    for name in ("qkv", "proj"):
        if not isinstance(getattr(module, name, None), nn.Linear):
            raise TypeError(f"{type(module).__name__} has no Linear called {name}")
    if not isinstance(getattr(module, "num_heads", None), int):
        raise TypeError(f"{type(module).__name__} has no num_heads")


def draw_key(x: Tensor) -> Tensor:
    """A random key for each sample, from torch's generator of its device."""
    return torch.randint(2**62, (len(x),), device=x.device)


def _draw(self: Any, x: Tensor, grid: tuple[int, int], mask_ratio: float) -> Mask:
    self._fastimae_mask = drawn = kernels.random_masking(draw_key(x), grid, mask_ratio)
    self._fastimae_writes = _writes(drawn.mask)
    if hasattr(self, "_fastimae_record"):
        self._fastimae_record.append(drawn)
    return drawn
