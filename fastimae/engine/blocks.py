"""The repeated blocks of a model: each is compiled, or recomputed in backward, by itself.

A block is an item of an nn.ModuleList. All blocks of a kind share one compilation.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator

from torch import nn
from torch.utils.checkpoint import checkpoint

KINDS = 64
"""Kinds of blocks that a process may compile: they differ in shape, format or need of gradients."""


def blocks(module: nn.Module) -> Iterator[nn.Module]:
    """Yield the items of each nn.ModuleList below the module, and of each nn.Sequential of several
    modules of one class, as in timm's transformers. Of nested lists, only the innermost count. A
    block is not searched for further blocks."""
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
    """Compile each block of the module, or a module without blocks as a whole.

    torch.compile fuses a block's elementwise operations, forward and backward. A model has up to
    five kinds of blocks, and torch lets a process compile eight: too few to train several models
    one after the other. So the limit is raised, for everything that the process compiles.
    """
    from torch._dynamo import config  # takes a second to import

    config.recompile_limit = max(config.recompile_limit, KINDS)
    repeated = list(blocks(module))
    for part in repeated or [module]:
        part.compile(fullgraph=bool(repeated), dynamic=False, backend=backend)


def recompute_blocks(module: nn.Module) -> None:
    """Keep only the input of each block; the backward pass recomputes the rest.

    Memory falls to about one block's, for a third more work. A block with `sum_first` calls
    `from_sum`, which has less input to keep than `forward`: only that part is recomputed.
    """
    for block in blocks(module):
        name = "from_sum" if hasattr(block, "sum_first") else "forward"
        original = getattr(block, name)
        setattr(block, name, functools.partial(checkpoint, original, use_reentrant=False))
        block.forward = getattr(block, "sum_first", block.forward)
