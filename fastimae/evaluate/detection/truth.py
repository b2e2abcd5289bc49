"""The annotations of a COCO data set in the form of the library that compares them.

The outlines of 5,000 images take seconds to prepare, so they are prepared once.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from faster_coco_eval import COCO
from faster_coco_eval import mask as library

from fastimae.evaluate.detection.coco import CocoScenes
from fastimae.evaluate.detection.outlines import Outline, compressed


class Truth:
    """The annotations of each image of `scenes`, prepared when they are first asked for."""

    def __init__(self, scenes: CocoScenes) -> None:
        """Remember the scenes."""
        self.scenes = scenes
        self._runs: dict[int, dict[str, Any]] = {}

    def image(self, index: int) -> dict[str, int]:
        """Return the library's entry of image `index`."""
        height, width = self.scenes.size(index)
        return {"id": index, "height": height, "width": width}

    def rows(self, index: int, *, masks: bool) -> list[dict[str, Any]]:
        """Return the annotations of image `index`, with labels for categories.

        masks: whether masks are compared, or boxes. An area that the file does not state is that of
        the outline.
        """
        rows, table = self.scenes.rows(index), self.scenes.table
        found = []
        for row in range(rows.start, rows.stop):
            area = float(table.areas[row])
            if np.isnan(area):
                area = float(library.area(self._outline(row, index)))
            entry = {
                "image_id": index,
                "category_id": int(self.scenes.labels[row]),
                "bbox": table.boxes[row].tolist(),
                "iscrowd": int(table.crowd[row]),
                "area": area,
            }
            found.append(entry | ({"segmentation": self._outline(row, index)} if masks else {}))
        return found

    def _outline(self, row: int, index: int) -> dict[str, Any]:
        """Return the compressed runs of an annotation; those of its box if it has no outline."""
        if row not in self._runs:
            outline = self.scenes.table.outlines[row]
            if not outline.is_known:
                left, top, width, height = self.scenes.table.boxes[row]
                right, bottom = left + width, top + height
                corners = [left, top, left, bottom, right, bottom, right, top]
                outline = Outline((np.array(corners),))
            self._runs[row] = compressed(outline, self.scenes.size(index))
        return self._runs[row]


def as_library(images: list[dict], rows: list[dict[str, Any]], classes: int) -> COCO:
    """Return the library's data set of annotations or detections, which get numbers.

    classes: how many there are. The library would read lists from files, and refuses an empty one.
    """
    for number, row in enumerate(rows, 1):  # 0 would mean "not matched"
        row["id"] = number
    categories = [{"id": label} for label in range(1, classes + 1)]
    coco = COCO()
    coco.dataset = {"images": images, "annotations": rows, "categories": categories}
    coco.createIndex()
    return coco
