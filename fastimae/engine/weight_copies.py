"""Low-precision copies of fp32 master weights, which a step computes with in their place."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch
from torch import Tensor, nn

from fastimae.engine.precision import weights_cast_to


class WeightCopies:
    """Copies of a module's trainable fp32 parameters (the masters) in another format.

    During a pass the copies replace the masters as leaves, and backward leaves their gradients at
    the copies, in their format. An optimizer that knows about the copies writes them as it updates
    the masters. So a step casts neither weights nor gradients.
    """

    def __init__(self, module: nn.Module, dtype: torch.dtype) -> None:
        self.module, self.dtype = module, dtype
        trained = [p for p in module.parameters() if p.requires_grad and p.dtype == torch.float32]
        self.of = {p: p.detach().to(dtype).requires_grad_() for p in trained}
        """The copy of each master."""
        self._seen: dict[nn.Parameter, tuple[int, int]] = {}
        self.written()

    @contextlib.contextmanager
    def in_place(self) -> Iterator[None]:
        """Replace masters by their copies, and other fp32 parameters by casts, during the block."""
        self.refresh()
        with weights_cast_to(self.module, self.dtype, self._usable()):
            yield

    def _usable(self) -> dict[nn.Parameter, Tensor]:
        """Return the copies that may replace their masters.

        Masters that have been frozen since, or that have gradient hooks, are replaced by casts,
        which respect both.
        """
        return {p: x for p, x in self.of.items() if p.requires_grad and not _hooked(p)}

    def refresh(self) -> None:
        """Copy masters that have changed without the optimizer: a loaded checkpoint, a user's code.

        Changes in place through `data` go unnoticed, as torch does not count them.
        """
        stale = [p for p, seen in self._seen.items() if seen != _version(p)]
        if stale:
            with torch.no_grad():
                torch._foreach_copy_([self.of[p] for p in stale], [p.detach() for p in stale])
            self.written()

    def written(self) -> None:
        """Note that all copies equal their masters now."""
        self._seen = {p: _version(p) for p in self.of}

    def gradient(self, master: nn.Parameter) -> Tensor | None:
        """Return the gradient of a master: its own, its copy's, or the sum of both if an objective
        uses a weight both through its module and directly."""
        copy = self.of.get(master)
        both = [leaf.grad for leaf in (master, copy) if leaf is not None and leaf.grad is not None]
        return sum(both[1:], start=both[0]) if both else None

    @torch.no_grad()
    def collect(self) -> None:
        """Add the copies' gradients to their masters', in fp32."""
        pairs = [(master, copy.grad) for master, copy in self.of.items() if copy.grad is not None]
        first = [pair for pair in pairs if pair[0].grad is None]
        for master, gradient in pairs:
            if master.grad is None:
                master.grad = torch.empty_like(gradient, dtype=master.dtype)
            else:
                master.grad += gradient
        if first:  # a few launches on a GPU, not one for each
            torch._foreach_copy_([master.grad for master, _ in first], [x for _, x in first])
        self.clear()

    def clear(self) -> None:
        """Drop the copies' gradients."""
        for copy in self.of.values():
            copy.grad = None


def _hooked(parameter: nn.Parameter) -> bool:
    return bool(parameter._backward_hooks or parameter._post_accumulate_grad_hooks)


def _version(parameter: nn.Parameter) -> tuple[int, int]:
    """Return a value that changes with each change of the data that torch sees."""
    return parameter._version, parameter.data_ptr()
