"""`Installed`: an attribute of a module that hides a method of its class, and can be taken away."""

from __future__ import annotations

import dataclasses
import functools
import inspect
from collections.abc import Callable

from torch import nn

_REPLICATE = "_replicate_for_data_parallel"


@dataclasses.dataclass(eq=False)
class Installed:
    """Hides the method `name` of the module's class.

    A plain object, so that modules can be copied and pickled with it.
    """

    module: nn.Module
    name: str

    @property
    def original(self) -> Callable:
        """The method that the class defines."""
        return functools.partial(getattr(type(self.module), self.name), self.module)

    @property
    def __signature__(self) -> inspect.Signature:
        """That of the original, for trainers that choose columns of a data set by it."""
        return inspect.signature(self.original)

    def install(self) -> None:
        """Hide the module's method; replicas of nn.DataParallel keep that of the class."""
        setattr(self.module, self.name, self)
        setattr(self.module, _REPLICATE, self.replicate)

    def remove(self) -> None:
        """Restore the method of the class."""
        own = vars(self.module)
        own.pop(self.name, None)
        if not any(isinstance(value, Installed) for value in own.values()):
            own.pop(_REPLICATE, None)

    def replicate(self) -> nn.Module:
        """Return what nn.DataParallel wants: a copy of the module for another device.

        What is installed would keep using this module's weights, so the copy has its class's
        methods.
        """
        replica = getattr(type(self.module), _REPLICATE)(self.module)
        for name, value in vars(self.module).items():
            if name == _REPLICATE or isinstance(value, Installed):
                del replica.__dict__[name]
        return replica


def installed_in(model: nn.Module) -> list[Installed]:
    """Return everything installed in the model and its parts."""
    return [v for m in model.modules() for v in list(vars(m).values()) if isinstance(v, Installed)]
