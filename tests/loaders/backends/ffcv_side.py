"""The ffcv library's half of test_ffcv_interop.py, run as a separate process.

It is separate because the library waits for ever when it fails, and because numba raises errors
from finalizers long after.

    python ffcv_side.py FOLDER FILE.beton ...

writes MODE-FIELD-FIELD.beton of WRITTEN into the folder, and FILE.npz beside each file.
"""

import itertools
import sys
from pathlib import Path

import numpy as np

HEIGHT, WIDTH, COUNT = 24, 32, 8
MODES = ("jpg", "raw")
WRITTEN = (
    ("image", "number"),
    ("number", "weight", "image"),
    ("weight", "extra", "image", "note"),
    ("note", "image"),
)


def pixels(number):
    """Make a smooth image, uint8 [HEIGHT, WIDTH, 3]."""
    y, x = np.mgrid[0:HEIGHT, 0:WIDTH]
    return np.stack([8 * x, 10 * y, np.full_like(x, 20 * number)], -1).astype(np.uint8)


def read(path, os_cache):
    """Read images and labels in one of the library's two ways to read a file, and page by page."""
    from ffcv.fields.basics import IntDecoder
    from ffcv.fields.rgb_image import SimpleRGBImageDecoder
    from ffcv.loader import Loader, OrderOption
    from ffcv.reader import Reader
    from ffcv.traversal_order import QuasiRandom

    pipelines = {"image": [SimpleRGBImageDecoder()], "label": [IntDecoder()]}
    pipelines = {name: pipelines[name] for name in Reader(str(path)).field_names}

    def everything(loader):
        batches = [[np.array(part) for part in batch] for batch in loader]
        parts = (np.concatenate(parts) for parts in zip(*batches, strict=True))
        return dict(zip(pipelines, parts, strict=True))

    loader = Loader(
        str(path),
        batch_size=COUNT // 2,
        num_workers=1,
        os_cache=os_cache,
        order=OrderOption.SEQUENTIAL,
        pipelines=pipelines,
        drop_last=False,
    )
    found = everything(loader)
    loader.traversal_order = QuasiRandom(loader)  # another loader would compile again
    found["quasi"] = everything(loader)["image"]
    np.savez(path.with_suffix(".npz"), **found)


class Pictures:
    """A dataset in the form that the library's writer takes."""

    def __init__(self, names):
        self.names = names

    def __len__(self):
        return COUNT

    def __getitem__(self, number):
        values = {
            "image": pixels(number),
            "number": number * 3,
            "weight": float(number),
            "extra": np.array([number], np.int32),
            "note": {"number": int(number)},
        }
        return tuple(values[name] for name in self.names)


def write(folder, mode, names):
    from ffcv import fields
    from ffcv.writer import DatasetWriter

    makers = {
        "image": lambda: fields.RGBImageField(write_mode=mode, jpeg_quality=95),
        "number": fields.IntField,
        "weight": fields.FloatField,
        "extra": lambda: fields.NDArrayField(np.dtype("int32"), (1,)),
        "note": fields.JSONField,
    }
    path = folder / ("-".join([mode, *names]) + ".beton")
    writer = DatasetWriter(str(path), {name: makers[name]() for name in names}, num_workers=1)
    writer.from_indexed_dataset(Pictures(names))


if __name__ == "__main__":
    from numba import typed

    typed.Dict = dict  # see quick_ffcv.py
    folder, *files = map(Path, sys.argv[1:])
    for mode, names in itertools.product(MODES, WRITTEN):
        write(folder, mode, names)
    for number, file in enumerate(files):
        read(file, os_cache=number in (0, 3))  # each way with each mode
