"""Testing a segmentation model: sliding windows over whole images, scores at their own size.

C = channels, H, W = height and width of an image, h, w = those it is tested at, K = classes.
"""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fastimae.engine.distributed import World
from fastimae.evaluate.dense.testing import DenseTester
from fastimae.evaluate.features import inference
from fastimae.evaluate.options.segment import SegmentOptions
from fastimae.evaluate.segmentation.model import Segmenter
from fastimae.evaluate.segmentation.pictures import DrawnScene, draw_scenes
from fastimae.evaluate.segmentation.scenes import Scenes
from fastimae.evaluate.segmentation.scores import SegmentScores
from fastimae.evaluate.segmentation.sliding import best_classes, slide
from fastimae.evaluate.segmentation.transforms import Normalise, whole_view
from fastimae.loaders.order.epoch_steps import evenly_spaced
from fastimae.settings import height_and_width

NAMES = ("mIoU", "aAcc", "mAcc")
"""The scores of an epoch, in percent."""


class Read(NamedTuple):
    """A scene that has been read."""

    number: int
    image: NDArray[np.uint8]
    """RGB, [H, W, 3]."""
    mask: NDArray[np.uint8]
    """Class numbers, [H, W]."""
    inputs: Tensor
    """float32 [1, C, h, w], normalised."""


class Tester(DenseTester):
    """Tests a model on scenes that the ranks share, at the settings of the options."""

    def __init__(
        self, student: Segmenter, scenes: Scenes, options: SegmentOptions, world: World
    ) -> None:
        """Begin with no scores. student: on the world's device. options: see `settled`."""
        super().__init__(student, scenes, options, world)
        self.normalise = Normalise(student.encoder.mean, student.encoder.std)

    def test(self, *, quiet: bool = True) -> dict[str, float]:
        """Test on all scenes; return {"test_mIoU", "test_aAcc", "test_mAcc"}, in percent.

        quiet: show no progress. Leaves the student in evaluation mode. Raises DataError if no pixel
        counts.
        """
        counted = SegmentScores(self.scenes.classes, self.world.device)
        for scene in self.share(quiet=quiet):
            mask_1HW = torch.tensor(scene.mask, device=self.world.device)[None]
            counted.update(self.predict(scene), mask_1HW.long())
        self.scores = counted.compute(self.world)
        return {f"test_{name}": self.scores[name] for name in NAMES}

    def predict(self, scene: Read) -> Tensor:
        """Return the predicted class of each pixel, int64 [1, H, W], on the device."""
        self.student.eval()
        options = self.options
        # As in other validation, blocks are not compiled again for it.
        with (
            torch.compiler.set_stance("force_eager"),
            inference(self.world.device, options.precision),
        ):
            logits_1Khw = slide(
                self.student, scene.inputs.to(self.world.device),
                height_and_width(options.input_size), options.stride,
                classes=len(self.scenes.classes),
            )  # fmt: skip
        return best_classes(logits_1Khw, scene.mask.shape)

    def draw(self, path: Path, note: str = "") -> None:
        """Draw --pictures scenes, evenly spaced, with their predictions. note: text below them."""
        scenes = self.read(evenly_spaced(len(self.scenes), self.options.pictures))
        drawn = [
            DrawnScene(
                name=self.scenes.name(scene.number),
                image=scene.image,
                truth=scene.mask,
                predicted=self.predict(scene)[0].cpu().numpy(),
            )
            for scene in filter(None, scenes)
        ]
        draw_scenes(drawn, self.scenes.classes, path, note)

    def view(self, number: int) -> Read:
        """As in `DenseTester`."""
        image, mask = self.scenes.read(number)
        pixels = whole_view(image, self.normalise, self.options.short_side)
        return Read(number, np.asarray(image), mask, torch.from_numpy(pixels)[None])
