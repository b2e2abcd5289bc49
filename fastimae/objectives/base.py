"""What an objective is: all that training, checkpoints and pictures ask of one.

An objective is one file: the settings that become its flags, the models it is made of, and the loss
of a batch. What else may be asked has an answer here, which a plain objective leaves as it is.
"""

from __future__ import annotations

import abc
import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Protocol, Self

from torch import Tensor, nn

from fastimae import settings
from fastimae.models import MaskedAutoencoder

if TYPE_CHECKING:
    from fastimae.loaders.base import Batch


class Models(Protocol):
    """Makes models as the flags of a run say."""

    def student(self, **sizes: Any) -> MaskedAutoencoder:
        """The --model, with the weights of --init if given. sizes: arguments of `create_model`,
        such as heads=2."""

    def teacher(
        self,
        path: Path | None,
        student: MaskedAutoencoder,
        *,
        name: str | None = None,
        num_heads: int | None = None,
    ) -> MaskedAutoencoder | None:
        """The MAE of a checkpoint, for images as the student's; None where there is no path."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Teacher:
    """A model that gives targets, and gets no gradients. It stays in evaluation mode."""

    module: nn.Module
    moves: bool = False
    """Whether `after_update` changes it, as a mean of the student's weights. Such a one is kept in
    fp32 (a small step in bf16 is none), in checkpoints, and sharded as the student is. One that
    never changes is kept in the format that it computes in, in no checkpoint, and whole."""
    precision: Literal["auto", "fp8"] = "auto"
    """fp8: one that never changes multiplies in 8 bits."""
    output: Callable[[Batch], Tensor] | None = None
    """What fp8's error is measured on."""

    def __post_init__(self) -> None:
        if self.precision == "fp8" and (self.moves or self.output is None):
            raise ValueError("a teacher in fp8 does not move, and has an `output` to measure")


class Objective(nn.Module, abc.ABC):
    """Maps a batch to a loss, and says what it owns.

    Every parameter is in one trainable module or in one teacher: see `check_parameters`.
    """

    Settings: ClassVar[type[settings.Settings]] = settings.Settings
    """A keyword-only dataclass: its fields are flags, lines of YAML, and checked as all others."""
    title: ClassVar[str] = ""
    """What pages call one of ours; a user's own is called as its class."""
    needs_partners: ClassVar[bool] = False
    """Whether a batch's `partner` is read. `Settings` then derives `PairSettings`."""
    loss_uses_all: ClassVar[bool] = True
    """Whether each loss depends on all trainable parameters. If not, several processes have to look
    for those that one leaves out (`find_unused_parameters` of DDP), which takes time."""

    student: nn.Module
    """The "model" of checkpoints, which evaluation and other code load."""

    @classmethod
    def build(cls, settings: Any, models: Models) -> Self:
        """The objective of a run. settings: of the class `Settings`. Raises ValueError."""
        return cls(models.student(), **vars(settings))

    @abc.abstractmethod
    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """{"loss": fp32 scalar, and its parts by name}. Nothing in it waits for the device."""

    def trainable(self) -> dict[str, nn.Module]:
        """All that is optimised, clipped, sharded and compiled, by name."""
        return {"student": self.student}

    def teachers(self) -> dict[str, Teacher]:
        """All that gives targets only, by name."""
        return {}

    def parts(self) -> dict[str, nn.Module]:
        """Both together."""
        teachers = self.teachers().items()
        return self.trainable() | {name: teacher.module for name, teacher in teachers}

    def extra_state(self) -> dict[str, Tensor]:
        """What checkpoints hold beside the student: all parameters and persistent buffers, but for
        teachers that never change. The tensors themselves, as resuming writes into them."""
        fixed = [teacher.module for teacher in self.teachers().values() if not teacher.moves]
        held = (module.state_dict(keep_vars=True) for module in (self.student, *fixed))
        elsewhere = {id(tensor) for state in held for tensor in state.values()}
        own = self.state_dict(keep_vars=True)
        return {name: t.detach() for name, t in own.items() if id(t) not in elsewhere}

    def after_update(self) -> None:
        """Called after each step of the optimizer, one that fp16 skips included, without gradients:
        an EMA moves here.

        On a GPU it is recorded once and replayed: it computes with tensors in place, draws no
        numbers in Python, and what changes from step to step (a schedule) is a buffer. It changes
        teachers, buffers and modules beside the student; the student is the optimizer's.
        """

    def train_flops(self) -> int | None:
        """Operations that an image takes, forward and backward; None: no MFU is told."""
        return None

    def reconstruct(self, batch: Batch) -> dict[str, Tensor]:
        """Pictures to look at, by title, uint8 [B, H, W, C] each; {}: there are none."""
        return {}

    @property
    def picture_note(self) -> str:
        """What is said below them."""
        return ""

    def train(self, mode: bool = True) -> Self:
        """As nn.Module's, but teachers always stay in evaluation mode."""
        super().train(mode)
        for teacher in self.teachers().values():
            teacher.module.eval()
        return self


def check_parameters(objective: Objective) -> None:
    """Raise ValueError for a parameter that nobody, or two, would train and save, and for a teacher
    that wants gradients."""
    kind = type(objective).__name__
    if not isinstance(getattr(objective, "student", None), nn.Module):
        raise ValueError(f"{kind}: its __init__ makes no self.student")
    teachers = objective.teachers()
    if twice := objective.trainable().keys() & teachers.keys():
        raise ValueError(f"{kind}: a trainable module and a teacher are called {min(twice)}")
    owners: dict[nn.Parameter, str] = {}
    for part, module in objective.parts().items():
        for parameter in module.parameters():
            if owners.setdefault(parameter, part) != part:
                raise ValueError(f"{kind}: {owners[parameter]} and {part} share a parameter")
            if part in teachers and parameter.requires_grad:
                raise ValueError(
                    f"{kind}: its teacher {part} wants gradients, call requires_grad_(False)"
                )
    own = {parameter: name for name, parameter in objective.named_parameters()}
    for parameter, name in own.items():
        if parameter not in owners:
            raise ValueError(
                f"{kind}: {name} is in no module of trainable() and in no teacher of teachers()"
            )
    for parameter, part in owners.items():
        if parameter not in own:
            raise ValueError(
                f"{kind}: {part} has parameters that the objective does not: make it an attribute"
            )
