"""COCO's average precision of boxes and of masks, over the detections of all ranks.

N = detections of an image, H, W = height, width of the image as it is stored, R = recalls.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from faster_coco_eval import COCOeval_faster
from faster_coco_eval import mask as library
from numpy.typing import NDArray
from torch import Tensor

from fastimae.engine.distributed import World
from fastimae.evaluate.detection.coco import CocoScenes
from fastimae.evaluate.detection.coco_file import Id
from fastimae.evaluate.detection.found import Found, exchanged
from fastimae.evaluate.detection.truth import Truth, as_library
from fastimae.folders import write_text

RECALLS = np.linspace(0, 1, 101)
"""At which precision is measured."""
_BOXES, _MASKS = "", "_mask"
"""The ends of the scores' names."""
_AREAS = {"AP": 0, "AP50": 0, "AP75": 0, "APs": 1, "APm": 2, "APl": 3}
"""Of each score, which of the library's sizes of objects: all, small, medium, large."""
_THRESHOLDS = {"AP50": slice(0, 1), "AP75": slice(5, 6)}
"""Of each score, which of the IoUs .5, .55, ... .95; of the others all."""
_MOST = -1
"""Of the library's limits of detections of an image: 100."""


class CocoScores:
    """Collects the detections of images, and compares them with the annotations.

    Every rank adds those of its images; `compute`, which all ranks call, compares those of all.
    """

    def __init__(self, scenes: CocoScenes, world: World) -> None:
        """scenes: their annotations are the truth; labels are theirs. world: the ranks."""
        self.scenes, self.world, self.truth = scenes, world, Truth(scenes)
        self.found: dict[int, Found] = {}
        self._numbers = {scenes.image_id(index): index for index in range(len(scenes))}
        self._precision: dict[str, NDArray[np.float64]] = {}

    def clear(self) -> None:
        """Forget all detections, to begin again with other weights."""
        self.found, self._precision = {}, {}

    def add(
        self,
        image_id: Id,
        boxes_N4: Tensor,
        scores_N: Tensor,
        labels_N: Tensor,
        masks_NHW: Tensor | None = None,
    ) -> None:
        """Add the detections of an image, even if there are none; of an image twice, the first.

        image_id: see `CocoScenes.image_id`. boxes_N4: left, top, right, bottom, in its pixels.
        scores_N: the higher the surer. labels_N: from 1. masks_NHW: bool, or uint8 of 0 and 1, of
        its size; None: boxes alone. They may be on any device.
        """
        number = self._numbers[image_id]
        if number not in self.found:
            size = self.scenes.size(number)
            self.found[number] = Found.of(boxes_N4, scores_N, labels_N, masks_NHW, size)

    def compute(self) -> dict[str, float]:
        """Return average precisions in percent, the same on all ranks, over the images added.

        AP is the mean over IoU .5 to .95, AP50 and AP75 are at one IoU, APs, APm and APl are of
        small, medium and large objects. Those of masks end with _mask. Left out are scores for
        which there is no object, and those of masks if there are no outlines.
        """
        self.found = exchanged(self.found, self.world)
        kinds = [_BOXES, _MASKS] if self.scenes.has_masks else [_BOXES]
        values = torch.full((len(kinds), len(_AREAS)), torch.nan, dtype=torch.float64)
        if self.world.is_main:
            self._precision = {kind: self._compare(masks=kind == _MASKS) for kind in kinds}
            for row, kind in zip(values, kinds, strict=True):
                scores = [self._score(name, kind) for name in _AREAS]
                row[:] = torch.tensor(scores, dtype=torch.float64)
        values = self.world.all(values.to(self.world.device))[0].tolist()
        return {
            f"{name}{kind}": value
            for kind, row in zip(kinds, values, strict=True)
            for name, value in zip(_AREAS, row, strict=True) if not np.isnan(value)
        }  # fmt: skip

    def by_class(self) -> list[dict[str, Any]]:
        """Return {"class", "AP", "AP_mask"} of each class, in percent; None without objects.

        On the first rank, after `compute`.
        """
        table = []
        for number, name in enumerate(self.scenes.classes):
            scores = {f"AP{kind}": self._score("AP", kind, number) for kind in self._precision}
            known = {key: None if np.isnan(value) else value for key, value in scores.items()}
            table.append({"class": name, **known})
        return table

    def curves(self) -> dict[str, NDArray[np.float64]]:
        """Return the mean precision of classes at each of `RECALLS`, in percent, [R].

        By the score whose curve it is: AP50, AP75, and those of masks. On the first rank, after
        `compute`.
        """
        return {
            f"{name}{kind}": _mean(self._selected(name, kind), axis=(0, 2))
            for kind in self._precision for name in _THRESHOLDS
        }  # fmt: skip

    def write(self, path: Path) -> None:
        """Write all detections as a file of COCO's results. On the first rank, after `compute`."""
        results = []
        for index in sorted(self.found):
            for row in self.found[index].rows(boxes=True, masks=True):
                row["image_id"] = self.scenes.image_id(index)
                row["category_id"] = self.scenes.category_ids[row["category_id"] - 1]
                row["bbox"] = [round(value, 2) for value in row["bbox"]]
                if "segmentation" in row:
                    row["segmentation"]["counts"] = row["segmentation"]["counts"].decode()
                results.append(row)
        write_text(path, json.dumps(results) + "\n")

    def _compare(self, *, masks: bool) -> NDArray[np.float64]:
        """Return precision by IoU, recall, class, size of objects and most detections.

        -1: there is no such object.
        """
        images = sorted(self.found)  # by their order in the data set, whichever rank had them
        truth = [row for index in images for row in self.truth.rows(index, masks=masks)]
        found = [
            {"image_id": index, "iscrowd": 0, "area": _area(row), **row}
            for index in images
            for row in self.found[index].rows(boxes=not masks, masks=masks)
        ]
        entries, classes = [self.truth.image(index) for index in images], len(self.scenes.classes)
        compared = COCOeval_faster(
            as_library(entries, truth, classes), as_library(entries, found, classes),
            "segm" if masks else "bbox",
        )  # fmt: skip
        compared.evaluate()
        compared.accumulate()
        return np.asarray(compared.eval["precision"]).reshape(compared.eval["counts"])

    def _selected(self, name: str, kind: str) -> NDArray[np.float64]:
        """Return precision by IoU, recall and class, of one score."""
        thresholds = _THRESHOLDS.get(name, slice(None))
        return self._precision[kind][thresholds, :, :, _AREAS[name], _MOST]

    def _score(self, name: str, kind: str, number: int | None = None) -> float:
        """Return a score in percent, of all classes or of one; NaN: there is no object."""
        precision = self._selected(name, kind)
        return float(_mean(precision if number is None else precision[:, :, number]))


def _mean(precision: NDArray[np.float64], axis: tuple[int, ...] | None = None) -> Any:
    """Return the mean of what is known, in percent; NaN if nothing is."""
    known = precision > -1
    total = np.where(known, precision, 0).sum(axis)
    with np.errstate(invalid="ignore"):
        return 100 * total / known.sum(axis)


def _area(row: dict[str, Any]) -> float:
    """Return the area of a detection's mask, else of its box."""
    if "segmentation" in row:
        return float(library.area(row["segmentation"]))
    return row["bbox"][2] * row["bbox"][3]
