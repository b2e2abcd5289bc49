"""Run-time checks during a trial: a method must not read tensor values or draw random numbers.

Static analysis cannot detect either, and both may make a method behave differently in a later call
than in the trials.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from types import CodeType, FrameType
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode

from fastimae.foreign_models.bytecode import Unreadable
from fastimae.foreign_models.preconditions import CodeSnapshot, Preconditions

_READ_VALUE = torch.ops.aten._local_scalar_dense.default
_TORCH = str(Path(torch.__file__).parent)
_MODULE_CALL = torch.nn.Module._call_impl.__code__


class RuntimeChecks(TorchDispatchMode):
    """A context in which the analysed code may not read a tensor's value, nor draw random numbers
    more often than `draws` times: raises Unreadable.

    Modules that it calls are exempt, since a replacement calls them, too.
    """

    def __init__(self, preconditions: Preconditions, draws: int = 0) -> None:
        super().__init__()
        analysed = [snapshot for _, _, snapshot in preconditions.methods]
        analysed += [g.value for g in preconditions.globals if isinstance(g.value, CodeSnapshot)]
        self.codes = {code for each in analysed if each.code for code in _nested(each.code)}
        self.draws = draws

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None
    ) -> Any:
        random = torch.Tag.nondeterministic_seeded in func.tags and "scaled_dot" not in str(func)
        if (random or func is _READ_VALUE) and self._is_analysed(sys._getframe(1)):
            if func is _READ_VALUE:
                raise Unreadable("depends on the values of a tensor, which may differ later")
            self.draws -= 1
            if self.draws < 0:
                raise Unreadable("draws random numbers, which may differ later")
        return func(*args, **(kwargs or {}))

    def _is_analysed(self, frame: FrameType | None) -> bool:
        """Return whether analysed code called the operation itself, not through a module."""
        while frame and frame.f_code is not _MODULE_CALL and frame.f_code not in self.codes:
            if not frame.f_code.co_filename.startswith(_TORCH):
                return False
            frame = frame.f_back
        return frame is not None and frame.f_code in self.codes


def _nested(code: CodeType) -> Iterator[CodeType]:
    """Yield the code, and that of comprehensions and functions nested in it."""
    yield code
    for inner in code.co_consts:
        if isinstance(inner, CodeType):
            yield from _nested(inner)
