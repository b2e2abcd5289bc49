"""What reading a method cannot tell, and one run can: that it asks a tensor for its value, or draws
random numbers. Either may make it do something else in another call than in the trials."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from types import CodeType, FrameType
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode

from fastimae.interop.bytecode import Unreadable
from fastimae.interop.watch import Code, Watch

_VALUE = torch.ops.aten._local_scalar_dense.default
_TORCH = str(Path(torch.__file__).parent)
_OWN_CALL = torch.nn.Module._call_impl.__code__


class Asking(TorchDispatchMode):
    """Within, what was read may neither ask for values nor draw more often than `draws`: raises
    Unreadable. Modules that it calls, which a replacement calls too, may do as they like."""

    def __init__(self, watch: Watch, draws: int = 0) -> None:
        super().__init__()
        read = [code for _, _, code in watch.methods]
        read += [one.value for one in watch.globals if isinstance(one.value, Code)]
        self.codes = {code for one in read if one.code for code in _nested(one.code)}
        self.draws = draws

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None
    ) -> Any:
        random = torch.Tag.nondeterministic_seeded in func.tags and "scaled_dot" not in str(func)
        if (random or func is _VALUE) and self._is_read(sys._getframe(1)):
            if func is _VALUE:
                raise Unreadable("decides by the values of a tensor, which may be others later")
            self.draws -= 1
            if self.draws < 0:
                raise Unreadable("draws random numbers, which may be others later")
        return func(*args, **(kwargs or {}))

    def _is_read(self, frame: FrameType | None) -> bool:
        """Whether the operation was called by a function that was read, not within a module."""
        while frame and frame.f_code is not _OWN_CALL and frame.f_code not in self.codes:
            if not frame.f_code.co_filename.startswith(_TORCH):
                return False
            frame = frame.f_back
        return frame is not None and frame.f_code in self.codes


def _nested(code: CodeType) -> Iterator[CodeType]:
    """The code, and that of comprehensions and functions within."""
    yield code
    for inner in code.co_consts:
        if isinstance(inner, CodeType):
            yield from _nested(inner)
