"""What a test of a detector is reported as: pictures, and a line of words."""

from __future__ import annotations

from collections.abc import Mapping

from fastimae.evaluate.detection.pictures import draw_curves, draw_detections
from fastimae.evaluate.detection.scores import RECALLS
from fastimae.evaluate.detection.testing import Tester
from fastimae.evaluate.results import Results
from fastimae.loaders.order.epoch_steps import evenly_spaced

PICTURE, CURVES = "detections.png", "curves.png"
_WORDS = {"AP": "AP of boxes", "AP50": "AP50", "AP_mask": "AP of masks", "AP50_mask": "AP50"}


def draw(tester: Tester, results: Results) -> None:
    """Draw precision over recall, and --pictures images with annotations and detections.

    tester: after its test. results: where to.
    """
    draw_curves(RECALLS, tester.counted.curves(), results.picture(CURVES))
    if count := tester.options.pictures:
        images = evenly_spaced(len(tester.scenes), count)
        draw_detections(tester.scenes, tester.counted.found, images, results.picture(PICTURE))


def in_words(scores: Mapping[str, float]) -> str:
    """Return the main scores as "AP of boxes 51.2, AP50 72.0, ...", in percent."""
    values = (f"{words} {scores[name]:.1f}" for name, words in _WORDS.items() if name in scores)
    return ", ".join(values)
