"""The operations that a call dispatches: on a GPU each is a kernel or more."""

import re

from torch.utils._python_dispatch import TorchDispatchMode

_ADD_UP = re.compile(r"index_add|index_put|index_reduce|scatter_add|scatter_reduce|dense_backward")


class _Recorder(TorchDispatchMode):
    def __init__(self):
        super().__init__()
        self.names = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if not func.is_view:
            self.names.append(str(func))
        return func(*args, **(kwargs or {}))


def operations(call):
    """Names of what `call` has torch do, views left out; a custom op is one."""
    with _Recorder() as recorder:
        call()
    return recorder.names


def that_add_up(names):
    """Those that add where indices lead them, on CUDA with atomics."""
    return [name for name in names if _ADD_UP.search(name)]
