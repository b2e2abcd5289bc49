"""Repeated blocks of a model, which are compiled or computed again one by one.

A block is an item of an nn.ModuleList: all blocks of a kind share one compilation.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator

from torch import nn
from torch.utils.checkpoint import checkpoint

KINDS = 64
"""Blocks that a process may compile: of other shapes or formats, with and without a gradient."""


def blocks(module: nn.Module) -> Iterator[nn.Module]:
    """The items of every nn.ModuleList below the module, and of every nn.Sequential of several
    parts of one kind, as timm's transformers have. Lists of lists hold no blocks but those of the
    inner ones, and blocks hold no others."""
    for part in module.children():
        if _is_list(module) and not _is_list(part):
            yield part
        else:
            yield from blocks(part)


def _is_list(module: nn.Module) -> bool:
    if isinstance(module, nn.Sequential):
        return len(module) > 1 and len(set(map(type, module))) == 1
    return isinstance(module, nn.ModuleList)


def compile_blocks(module: nn.Module, backend: str = "inductor") -> None:
    """Have torch.compile fuse each block's elementwise work, forward and backward; of a module that
    has no blocks, all of it.

    A model has up to four kinds of blocks, of which torch lets a process compile eight in all:
    too few where it trains several models, one after the other. The limit is raised for all that
    the process compiles.
    """
    from torch._dynamo import config  # takes a second to import

    config.recompile_limit = max(config.recompile_limit, KINDS)
    found = list(blocks(module))
    for region in found or [module]:
        region.compile(fullgraph=bool(found), dynamic=False, backend=backend)


def recompute_blocks(module: nn.Module) -> None:
    """Keep only what enters each block; the backward pass computes the rest again.

    Memory falls to about one block's, for a third more work. Where a block has `from_sum`, which
    takes less than `forward`, that is what is computed again.
    """
    for block in blocks(module):
        name = "from_sum" if hasattr(block, "from_sum") else "forward"
        whole = getattr(block, name)
        setattr(block, name, functools.partial(checkpoint, whole, use_reentrant=False))
