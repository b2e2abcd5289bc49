"""Detections in images, and their exchange between ranks.

N = detections of an image, H, W = height, width of the image as it is stored.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from faster_coco_eval import mask as library
from numpy.typing import NDArray
from safetensors.numpy import load, save
from torch import Tensor

from fastimae.engine.distributed import World
from fastimae.evaluate.detection.outlines import Size

_NO_MASK = -1
_PIXELS_AT_ONCE = 1 << 25
"""Of masks that are compressed together, one byte each: all 100 of an image of COCO's size."""


class Found(NamedTuple):
    """The detections in one image."""

    boxes: NDArray[np.float32]
    """[N, 4] left, top, right, bottom, in pixels of the image."""
    scores: NDArray[np.float32]
    """[N]"""
    labels: NDArray[np.int64]
    """[N] from 1."""
    runs: list[bytes]
    """Compressed runs of the masks: N; none if only boxes are detected."""
    size: Size
    """(H, W)"""

    @classmethod
    def of(
        cls,
        boxes_N4: Tensor,
        scores_N: Tensor,
        labels_N: Tensor,
        masks_NHW: Tensor | None,
        size: Size,
    ) -> Found:
        """Copy detections to the CPU, without those whose score or box is no number.

        masks_NHW: bool, or uint8 of 0 and 1; None: there are none. size: (H, W).
        """
        good_N = scores_N.isfinite() & boxes_N4.isfinite().all(1)
        return cls(
            boxes=boxes_N4[good_N].detach().float().cpu().numpy(),
            scores=scores_N[good_N].detach().float().cpu().numpy(),
            labels=labels_N[good_N].cpu().numpy().astype(np.int64),
            runs=[] if masks_NHW is None else _compressed(masks_NHW[good_N]),
            size=size,
        )

    def rows(self, *, boxes: bool, masks: bool) -> list[dict[str, Any]]:
        """Return the detections in the form of COCO's results, with labels for categories.

        boxes, masks: which of them to include. Without either, there is no detection.
        """
        if not boxes and not self.runs:
            return []
        rows = [
            {"category_id": label, "score": score}
            for label, score in zip(self.labels.tolist(), self.scores.tolist(), strict=True)
        ]
        if boxes:
            for row, (left, top, right, bottom) in zip(rows, self.boxes.tolist(), strict=True):
                row["bbox"] = [left, top, right - left, bottom - top]
        if masks and self.runs:
            for row, counts in zip(rows, self.runs, strict=True):
                row["segmentation"] = {"size": list(self.size), "counts": counts}
        return rows

    def masks(self, rows: Sequence[int]) -> NDArray[np.bool_]:
        """Return the masks of some of the detections, bool [N, H, W]. rows: their numbers."""
        masks = np.zeros((len(rows), *self.size), bool)
        for mask, row in zip(masks, rows, strict=True):
            mask[:] = library.decode({"size": list(self.size), "counts": self.runs[row]})
        return masks


def _compressed(masks_NHW: Tensor) -> list[bytes]:
    """Return COCO's compressed runs of masks."""
    if not len(masks_NHW):
        return []
    at_once, found = max(1, _PIXELS_AT_ONCE // max(masks_NHW[0].numel(), 1)), []
    for some_NHW in masks_NHW.split(at_once):
        columns_NWH = some_NHW.to(torch.uint8).transpose(1, 2).contiguous().cpu().numpy()
        # Transposed, as the library wants them column by column.
        found += [runs["counts"] for runs in library.encode(columns_NWH.T)]
    return found


def exchanged(found: dict[int, Found], world: World) -> dict[int, Found]:
    """Return the detections of all ranks, by the number of the image; of two ranks, the first's.

    found: those of this rank.
    """
    if world.size == 1:
        return found
    mine = np.frombuffer(_to_bytes(found), np.uint8).copy()
    longest = world.max(len(mine))
    padded = torch.zeros(longest, dtype=torch.uint8, device=world.device)
    padded[: len(mine)] = torch.from_numpy(mine)
    lengths = world.all(torch.tensor([len(mine)], device=world.device))
    everyone: dict[int, Found] = {}
    for length, part in zip(lengths, world.all(padded), strict=True):
        for number, each in _from_bytes(part[: int(length)].cpu().numpy().tobytes()):
            everyone.setdefault(number, each)
    return everyone


def _to_bytes(found: dict[int, Found]) -> bytes:
    each = list(found.values())
    lengths = [len(runs) for one in each for runs in one.runs or [b""] * len(one.labels)]
    has_runs = [bool(one.runs) for one in each for _ in one.labels]
    text = b"".join(runs for one in each for runs in one.runs)
    return save({
        "numbers": np.array(list(found), np.int64),
        "counts": np.array([len(one.labels) for one in each], np.int64),
        "sizes": np.array([one.size for one in each], np.int64).reshape(-1, 2),
        "boxes": np.concatenate([np.empty((0, 4), np.float32), *(one.boxes for one in each)]),
        "scores": np.concatenate([np.empty(0, np.float32), *(one.scores for one in each)]),
        "labels": np.concatenate([np.empty(0, np.int64), *(one.labels for one in each)]),
        "lengths": np.where(has_runs, lengths, _NO_MASK).astype(np.int64),
        "text": np.frombuffer(text, np.uint8),
    })  # fmt: skip


def _from_bytes(data: bytes) -> Iterator[tuple[int, Found]]:
    part = load(data)
    ends = np.cumsum(part["counts"])
    starts = ends - part["counts"]
    stops = np.cumsum(part["lengths"].clip(0))
    text = part["text"].tobytes()
    for number, size, first, last in zip(
        part["numbers"].tolist(), part["sizes"].tolist(), starts, ends, strict=True
    ):
        places = zip(stops[first:last], part["lengths"][first:last], strict=True)
        rows = slice(first, last)
        yield (
            number,
            Found(
                boxes=part["boxes"][rows],
                scores=part["scores"][rows],
                labels=part["labels"][rows],
                runs=[text[stop - length : stop] for stop, length in places if length != _NO_MASK],
                size=(size[0], size[1]),
            ),
        )
