"""Testing a detector: image by image, scores in the pixels of the files.

C = channels, S = side of the square that an image is resized into, H, W = its height and width.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from PIL import Image
from torch import Tensor

from fastimae.engine.distributed import World
from fastimae.engine.precision import resolve_precision
from fastimae.evaluate.dense.testing import DenseTester
from fastimae.evaluate.detection.coco import Annotations, CocoScenes
from fastimae.evaluate.detection.jitter import View, resize_for_test
from fastimae.evaluate.detection.mask_rcnn import MaskRCNN
from fastimae.evaluate.detection.objective import autocast
from fastimae.evaluate.detection.paste import Detections, in_original_size
from fastimae.evaluate.detection.scores import CocoScores
from fastimae.evaluate.options.detect import DetectOptions
from fastimae.loaders.errors import DataError


class Read(NamedTuple):
    """An image that has been read."""

    number: int
    image: Image.Image
    """RGB, [H, W]."""
    annotations: Annotations
    inputs: Tensor
    """float32 [1, C, S, S], normalised."""
    view: View
    """Where the image is in the square."""


class Tester(DenseTester):
    """Tests a detector on images that the ranks share.

    Images are detected one by one, so that what is found in one depends on no other: not on a batch
    size, nor on the number of ranks.
    """

    def __init__(
        self, student: MaskRCNN, scenes: CocoScenes, options: DetectOptions, world: World
    ) -> None:
        """student: on the world's device. scenes: to test on. options: settled."""
        super().__init__(student, scenes, options, world)
        self.precision = resolve_precision(options.precision, world.device)
        self.counted = CocoScores(scenes, world)

    def test(self, *, quiet: bool = True) -> dict[str, float]:
        """Test on all images; return {"test_AP", ..., "test_AP_mask", ...}, in percent.

        quiet: show no progress. Leaves the student in evaluation mode. Raises DataError if there is
        no object to find in any image.
        """
        self.counted.clear()
        for read in self.share(quiet=quiet):
            self.counted.add(self.scenes.image_id(read.number), *self.detect(read))
        self.scores = self.counted.compute()
        if "AP" not in self.scores:
            raise DataError(f"{self.scenes.source}: no image with an object can be read")
        return {f"test_{name}": value for name, value in self.scores.items()}

    @torch.no_grad()
    def detect(self, read: Read) -> Detections:
        """Return what the student finds in an image, in its pixels, on the device."""
        self.student.eval()
        device = self.world.device
        # As in other validation, blocks are not compiled again for it.
        with torch.compiler.set_stance("force_eager"), autocast(device, self.precision):
            (found,) = self.student(read.inputs.to(device), sizes=[read.view.size])
        width, height = read.image.size
        return in_original_size(found, read.view.scale, (height, width))

    def view(self, number: int) -> Read:
        """As in `DenseTester`."""
        image, annotations = self.scenes.read(number)
        encoder = self.student.encoder
        pixels, view = resize_for_test(image, self.options.side, encoder.mean, encoder.std)
        return Read(number, image, annotations, torch.from_numpy(pixels)[None], view)
