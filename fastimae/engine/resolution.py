"""--resolution_schedule: a run that begins on small images, and what that saves."""

from __future__ import annotations

import dataclasses
import itertools
import re
from typing import TYPE_CHECKING, NamedTuple

from fastimae.log import log
from fastimae.settings import ConfigError, Expert, Settings

if TYPE_CHECKING:
    from fastimae.engine.plan import Plan
    from fastimae.objectives.base import Objective

FLAG = "--resolution_schedule"
Size = tuple[int, int]
"""(height, width) in pixels."""
_STAGE = re.compile(r"(?P<height>[1-9]\d*)(x(?P<width>[1-9]\d*))?@(?P<epoch>\d+)")


class Stage(NamedTuple):
    """The image size of some epochs, until the next stage begins."""

    size: Size
    epoch: int
    """The first one, from 0."""


@dataclasses.dataclass(kw_only=True)
class ResolutionSettings(Settings):
    """The image sizes of a run's epochs."""

    resolution_schedule: Expert[tuple[str, ...]] = ()
    """SIZE@EPOCH of each image size and its first epoch, from 0, as 160@0 192@40 224@70: the last
    is --input_size. SIZE is a side, or HEIGHTxWIDTH."""

    @property
    def stages(self) -> tuple[Stage, ...]:
        """The stages of the schedule, () without one. Raises ConfigError for another syntax."""
        return tuple(map(_parsed, " ".join(self.resolution_schedule).split()))

    def size_at(self, epoch: int) -> Size | None:
        """Return the image size of an epoch; None without a schedule: it never changes."""
        begun = [stage.size for stage in self.stages if stage.epoch <= epoch]
        return begun[-1] if begun else None

    def check(self) -> None:
        """Check the order of the stages, too: see `Settings`."""
        super().check()
        if not (stages := self.stages):
            return
        self.require(len(stages) > 1, f"{FLAG} needs two sizes or more: drop it")
        self.require(
            stages[0].epoch == 0, f"{FLAG} begins at epoch {stages[0].epoch}: begin with SIZE@0"
        )
        for before, after in itertools.pairwise(stages):
            self.require(
                before.epoch < after.epoch,
                f"{FLAG}: epoch {after.epoch} does not come after {before.epoch}",
            )
            self.require(
                before.size != after.size,
                f"{FLAG}: epoch {after.epoch} changes nothing, it keeps "
                f"{size_text(after.size)} pixels: drop it",
            )

    def check_sizes(self, image_size: Size, patch_size: int, epochs: int) -> None:
        """Raise ConfigError unless the schedule ends with --input_size, within the run.

        image_size: --input_size. All sizes must have its shape, so that crops have the same
        windows, and consist of patches.
        """
        if not (stages := self.stages):
            return
        last = stages[-1]
        self.require(
            last.size == image_size,
            f"{FLAG} ends with {size_text(last.size)} pixels, and --input_size is "
            f"{size_text(image_size)}: they must be the same",
        )
        self.require(
            last.epoch < epochs,
            f"{FLAG}: {size_text(last.size)} pixels from epoch {last.epoch} on would never be "
            f"trained, as the last of --epochs {epochs} is {epochs - 1}",
        )
        for height, width in (stage.size for stage in stages):
            text = f"{FLAG}: {size_text((height, width))} pixels"
            self.require(
                height % patch_size == width % patch_size == 0,
                f"{text} are not a multiple of the patch size {patch_size} of the --model",
            )
            self.require(
                height * image_size[1] == width * image_size[0],
                f"{text} have another shape than --input_size {size_text(image_size)}",
            )


def _parsed(text: str) -> Stage:
    if not (match := _STAGE.fullmatch(text)):
        raise ConfigError(f"{FLAG} {text}: write SIZE@EPOCH, such as 160@0 192@40 224@70")
    height, width = int(match["height"]), int(match["width"] or match["height"])
    return Stage((height, width), int(match["epoch"]))


def size_text(size: Size) -> str:
    """Write a size as the flag takes it: one number for a square."""
    return str(size[0]) if size[0] == size[1] else f"{size[0]}x{size[1]}"


def try_sizes(objective: Objective, plan: Plan) -> None:
    """Check that the objective takes all sizes of a schedule, and log what these cost.

    It has the last size then. Raises ConfigError for a size that it cannot take.
    """
    flops: dict[Size, int | None] = {}
    for size, _ in plan.stages:
        try:
            objective.set_image_size(size)
            flops[size] = objective.train_flops()
        except ValueError as error:
            raise ConfigError(f"{FLAG}, {size_text(size)} pixels: {error}") from error
    if flops:
        log.info("%s", described(plan, flops))


def described(plan: Plan, flops: dict[Size, int | None]) -> str:
    """Describe a schedule in a line: where sizes begin, and their share of the work.

    flops: of an image, by size; None if unknown.
    """
    starts = [stage.epoch for stage in plan.stages] + [plan.epochs]
    full, total, words = flops[plan.stages[-1].size], 0.0, []
    for (size, first), end in zip(plan.stages, starts[1:], strict=True):
        cost = flops[size] / full if full else 0
        total += cost * (end - first) / plan.epochs
        share = f" ({cost:.2f} x the FLOPs)" if full and size != plan.stages[-1].size else ""
        words.append(f"{size_text(size)} px from epoch {first}{share}")
    whole = f"; {total:.2f} x the FLOPs of a run at {size_text(size)} px" if full else ""
    return f"{FLAG}: {', '.join(words)}{whole}"
