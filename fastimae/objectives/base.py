"""The base class of objectives: the interface that training, checkpoints and pictures use.

An objective is one file: the settings that become its flags, the models it consists of, and the
loss of a batch. Everything else has a default here, which a simple objective does not override.
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
from fastimae.models.encoder import Encoder

if TYPE_CHECKING:
    from fastimae.loaders.base import Batch


class Models(Protocol):
    """Builds the models that the flags of a run describe."""

    def student(self, **sizes: Any) -> MaskedAutoencoder:
        """Build the --model, with the weights of --init if given.

        sizes: arguments of `create_model`, such as heads=2.
        """

    def teacher(
        self,
        path: Path | None,
        student: MaskedAutoencoder,
        *,
        name: str | None = None,
        num_heads: int | None = None,
    ) -> MaskedAutoencoder | None:
        """Load the MAE of a checkpoint, for images like the student's; None if there is no path."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Teacher:
    """A model that provides targets and gets no gradients. It stays in evaluation mode."""

    module: nn.Module
    moves: bool = False
    """Whether `after_update` changes it, as an average of the student's weights does. A moving
    teacher is kept in fp32 (bf16 rounds small steps to nothing), saved in checkpoints, and sharded
    like the student. A fixed one is kept in the dtype that it computes in, not saved and not
    sharded."""
    precision: Literal["auto", "fp8"] = "auto"
    """fp8: multiply in 8 bits, which only a fixed teacher can."""
    output: Callable[[Batch], Tensor] | None = None
    """Output for a batch, on which the error of fp8 is measured."""

    def __post_init__(self) -> None:
        if self.precision == "fp8" and (self.moves or self.output is None):
            raise ValueError("a teacher in fp8 must not move, and needs an `output` to measure")


class Objective(nn.Module, abc.ABC):
    """Maps a batch to a loss, and names its modules.

    Every parameter is in one trainable module or in one teacher: see `check_parameters`.
    """

    Settings: ClassVar[type[settings.Settings]] = settings.Settings
    """A keyword-only dataclass. Its fields become flags and YAML keys, checked like all others."""
    title: ClassVar[str] = ""
    """Name on report pages; a user's objective appears under its class name."""
    needs_partners: ClassVar[bool] = False
    """Whether each batch's `partner` is read. `Settings` must then derive from `PairSettings`."""
    has_decoder: ClassVar[bool] = True
    """Whether its student has a decoder; the settings of one have no effect otherwise."""
    loss_uses_all: ClassVar[bool] = True
    """Whether each loss depends on all trainable parameters. If not, distributed runs must search
    for unused ones in every step (`find_unused_parameters` of DDP), which takes time; except in
    bf16, where their gradients count as zeros."""

    student: nn.Module
    """The "model" of checkpoints, which evaluation and other code load."""

    @classmethod
    def build(cls, settings: Any, models: Models) -> Self:
        """Build the objective of a run. settings: an instance of `Settings`. Raises ValueError."""
        return cls(models.student(), **vars(settings))

    @abc.abstractmethod
    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """Return {"loss": fp32 scalar, and its parts by name}, without waiting for the device."""

    def trainable(self) -> dict[str, nn.Module]:
        """Return all modules to optimise, clip, shard and compile, by name."""
        return {"student": self.student}

    def teachers(self) -> dict[str, Teacher]:
        """Return all models that only provide targets, by name."""
        return {}

    def parts(self) -> dict[str, nn.Module]:
        """Return the modules of `trainable` and `teachers` together."""
        teachers = self.teachers().items()
        return self.trainable() | {name: teacher.module for name, teacher in teachers}

    def extra_state(self) -> dict[str, Tensor]:
        """Return what checkpoints hold besides the student, by name.

        These are all parameters and persistent buffers except those of fixed teachers; the tensors
        themselves, as resuming writes into them.
        """
        fixed = [teacher.module for teacher in self.teachers().values() if not teacher.moves]
        excluded = (module.state_dict(keep_vars=True) for module in (self.student, *fixed))
        excluded_ids = {id(tensor) for state in excluded for tensor in state.values()}
        state = self.state_dict(keep_vars=True)
        return {name: t.detach() for name, t in state.items() if id(t) not in excluded_ids}

    def after_update(self) -> None:
        """Update what the optimizer does not, such as an EMA; called after each optimizer step.

        It runs without gradients, and also after a step that fp16 skips. On a GPU it is captured
        once and replayed: compute in place on tensors, draw no numbers in Python, and keep what
        varies from step to step (a schedule) in a buffer. It may change teachers, buffers and
        modules other than the student, which is the optimizer's. Do not write through `.data`:
        torch does not notice it, so that bf16 copies of the weights would keep their old values.
        """

    def set_image_size(self, img_size: tuple[int, int]) -> None:
        """Take images of another size, (height, width), from now on: --resolution_schedule.

        All encoders do: see `Encoder.set_image_size`. Masks that are drawn for a model's `grid`
        follow. An objective that keeps anything else of that size changes it here. Raises
        ValueError for a size that it cannot take.
        """
        for module in self.modules():
            if isinstance(module, Encoder):
                module.set_image_size(img_size)

    def train_flops(self) -> int | None:
        """Return the operations per image, forward and backward; None: MFU is not reported."""
        return None

    def reconstruct(self, batch: Batch) -> dict[str, Tensor]:
        """Return pictures by title, uint8 or uint16 [B, H, W, C] each, or {} for none."""
        return {}

    @property
    def picture_note(self) -> str:
        """Caption of the pictures."""
        return ""

    def train(self, mode: bool = True) -> Self:
        """Set the mode like nn.Module, but keep teachers in evaluation mode."""
        super().train(mode)
        for teacher in self.teachers().values():
            teacher.module.eval()
        return self


def check_parameters(objective: Objective) -> None:
    """Raise ValueError unless each parameter has exactly one owner, and teachers need no gradients.

    Owners are the modules of `trainable` and `teachers`, which are trained and saved.
    """
    kind = type(objective).__name__
    if not isinstance(getattr(objective, "student", None), nn.Module):
        raise ValueError(f"{kind}: its __init__ does not set self.student")
    teachers = objective.teachers()
    if shared := objective.trainable().keys() & teachers.keys():
        raise ValueError(f"{kind}: a trainable module and a teacher are both called {min(shared)}")
    owners: dict[nn.Parameter, str] = {}
    for part, module in objective.parts().items():
        for parameter in module.parameters():
            if owners.setdefault(parameter, part) != part:
                raise ValueError(f"{kind}: {owners[parameter]} and {part} share a parameter")
            if part in teachers and parameter.requires_grad:
                raise ValueError(
                    f"{kind}: its teacher {part} requires gradients: call requires_grad_(False)"
                )
    registered = {parameter: name for name, parameter in objective.named_parameters()}
    for parameter, name in registered.items():
        if parameter not in owners:
            raise ValueError(f"{kind}: {name} is neither in trainable() nor in teachers()")
    for parameter, part in owners.items():
        if parameter not in registered:
            raise ValueError(
                f"{kind}: {part} is not registered: make it an attribute of the objective"
            )
