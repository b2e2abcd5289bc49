"""What must not change in a module of transformers while one of its methods is replaced.

Its methods are behind decorators, and look up attention by name, so that bytecode does not say what
they do. But their sources are known, and what they read is listed here.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from torch import nn

from fastimae.foreign_models.preconditions import Preconditions

LIBRARIES = ("transformers", "torch")
"""Packages whose sources are known."""
_CHANCES = ("p", "attention_dropout", "dropout_prob")
"""Attributes that are probabilities of dropping an activation."""
_READ = (
    *("num_attention_heads", "scaling", "is_causal", "eps", "gradient_checkpointing"),
    *("image_size", "patch_size", "num_channels", "config", *_CHANCES),
)
"""Further attributes that layers and embeddings read."""


def library_preconditions(
    module: nn.Module,
    methods: tuple[str, ...] = ("forward",),
    *,
    bypassed: Iterable[nn.Module] = (),
    settings: Iterable[tuple[Any, str]] = (),
) -> Preconditions:
    """Return what may not change while a replacement stands for some methods of the module.

    bypassed: modules in it that the replacement does not call. settings: (owner, name) of further
    attributes that the methods read. Raises ValueError with the reason if one of the methods is not
    transformers' own, or drops activations, or if a bypassed module has hooks.
    """
    found, inner = Preconditions(), [*bypassed]
    found.bypassed.extend((each, type(each)) for each in inner)
    for each, names in ((module, methods), *((each, ("forward",)) for each in inner)):
        for name in names:
            home = next(kind for kind in type(each).__mro__ if name in vars(kind))
            if home.__module__.partition(".")[0] not in LIBRARIES:
                raise ValueError(f"{type(each).__name__} has a {name} of its own")
            found.values.append((type(each), name, getattr(type(each), name)))
        found.values.extend(
            (each, name, getattr(each, name)) for name in _READ if hasattr(each, name)
        )
    found.values.extend(
        (owner, name, child)
        for owner in module.modules()
        for name, child in owner.named_children()
        if child in inner
    )
    found.values.extend((owner, name, getattr(owner, name, None)) for owner, name in settings)
    if reason := found.change() or _what_drops(found):
        raise ValueError(reason)
    return found


def _what_drops(found: Preconditions) -> str:
    """Describe what makes training random, "" if nothing does."""
    drops = ((owner, value) for owner, name, value in found.values if name in _CHANCES and value)
    return next((f"differs in training: {owner} drops {value:g}" for owner, value in drops), "")
