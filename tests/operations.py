"""The operations that a call dispatches: on a GPU, each is at least one kernel."""

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
    """Return the names of the operations of torch that `call` runs, without views; a custom op is
    one."""
    with _Recorder() as recorder:
        call()
    return recorder.names


def that_add_up(names):
    """Return those that add at indices, with atomics on CUDA."""
    return [name for name in names if _ADD_UP.search(name)]
