"""One small data set in two forms, and what tests of several back ends share."""

import dataclasses
import io
import multiprocessing
import threading
import time
from pathlib import Path
from typing import Self

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.transforms import InterpolationMode
from torchvision.transforms.functional import hflip, resized_crop

from fastimae.loaders import Batch, BetonWriter, Loader, create_loader
from fastimae.loaders.crops import draw_windows
from fastimae.loaders.sampler import Sampler
from fastimae.loaders.settings import LoaderSettings
from fastimae.loaders.trailer import make_trailer

COUNT, CLASSES, BATCH, SIZE = 42, 3, 8, (24, 32)
RATIO = (3 / 4 * SIZE[1] / SIZE[0], 4 / 3 * SIZE[1] / SIZE[0])
"""Bounds of width / height, in pixels."""
SETTINGS = {"batch_size": BATCH, "input_size": SIZE, "mix_group": 4, "seed": 5}


def jpeg(seed: int) -> bytes:
    """A picture with smooth and sharp parts; sizes and, once in seven, gray mode vary."""
    rng = np.random.default_rng(seed)
    height, width = rng.integers(20, 90, 2)
    rough = Image.fromarray(rng.integers(0, 256, (5, 6, 3), dtype=np.uint8))
    image = rough.resize((width, height), Image.Resampling.BILINEAR)
    image = image.convert("L") if seed % 7 == 0 else image
    file = io.BytesIO()
    image.save(file, "JPEG", quality=90, subsampling=seed % 3)
    return file.getvalue()


class Data:
    """The same images as files in class folders and as a .beton, both in the same order."""

    count, batch_size, settings = COUNT, BATCH, SETTINGS

    def __init__(self, root: Path) -> None:
        self.folder, self.beton = root / "images", root / "images.beton"
        self.names = [f"class{i * CLASSES // COUNT}/{i:03d}.jpg" for i in range(COUNT)]
        self.labels = [i * CLASSES // COUNT for i in range(COUNT)]
        self.payloads = [jpeg(i) for i in range(COUNT)]

    def write(self, broken: dict[int, bytes] | None = None) -> Self:
        """Write both forms, with other bytes for the samples in `broken`: damaged since then."""
        with BetonWriter(self.beton) as writer:
            for i, good in enumerate(self.payloads):
                data = (broken or {}).get(i, good)
                file = self.folder / self.names[i]
                file.parent.mkdir(parents=True, exist_ok=True)
                file.write_bytes(data)
                width, height = Image.open(io.BytesIO(good)).size
                writer.append(
                    data, height=height, width=width, label=self.labels[i],
                    trailer=make_trailer(good),
                )  # fmt: skip
        return self

    def loader(self, back_end: str, **settings) -> Loader:
        """The loader for a name like "pillow-3": back end and number of workers."""
        name, workers = back_end.split("-")
        source = {
            "pillow": {"ffcv": self.beton, "decoder": "pillow"},
            "native": {"ffcv": self.beton, "decoder": "native"},
            "ffcv": {"ffcv": self.beton, "decoder": "ffcv"},
            "dali": {"dali": self.beton},
            "dalifolder": {"dali": self.folder},
            "dalishare": {"ffcv": self.beton, "dali_share": 0.4},
            "folder": {"data_path": self.folder},
            "synthetic": {"synthetic": True, "synthetic_samples": COUNT},
        }[name]
        return create_loader(**source, num_workers=int(workers), **{**SETTINGS, **settings})

    def sampler(self, **settings) -> Sampler:
        """What a loader with these settings of a sampler draws from."""
        defaults = {"batch_size": BATCH, "mix_group": 4, "seed": 5}
        return Sampler(np.array(self.labels), LoaderSettings(**{**defaults, **settings}))

    @staticmethod
    def same(first: list[Batch], second: list[Batch]) -> bool:
        """Whether all fields of all batches are equal."""
        return len(first) == len(second) and all(
            torch.equal(getattr(a, field.name), getattr(b, field.name))
            for a, b in zip(first, second, strict=True)
            for field in dataclasses.fields(Batch)
        )

    @staticmethod
    def shows(back_end: str, pixels: torch.Tensor, expected: np.ndarray) -> bool:
        """Whether `pixels` are as expected: to the bit, but for the rounding of DALI's resize."""
        if not back_end.startswith("dali"):
            return np.array_equal(pixels, expected)
        return np.abs(pixels.numpy().astype(int) - expected).mean() < 0.5

    def reference(self, index: int, key: int, shown: int, channels: int = 3) -> np.ndarray:
        """Sample `shown` cropped by `key`, by torchvision."""
        image = Image.open(io.BytesIO(self.payloads[shown])).convert(
            "RGB" if channels == 3 else "L"
        )
        windows, flip = draw_windows(
            np.array([key]), [image.height], [image.width], (0.2, 1.0), RATIO
        )
        image = resized_crop(image, *windows[0].tolist(), SIZE, InterpolationMode.BICUBIC)
        return np.asarray(hflip(image) if flip[0] else image).reshape(*SIZE, channels)


class Resources:
    """Threads, child processes and open files of this process."""

    @staticmethod
    def now() -> tuple:
        threads = sorted(thread.name for thread in threading.enumerate())
        children = multiprocessing.active_children()
        return threads, len(children), len(list(Path("/proc/self/fd").iterdir()))

    def at_rest(self) -> tuple:
        """What there is when nothing is ending any more from earlier work."""
        earlier, present = None, self.now()
        while present != earlier:
            time.sleep(0.1)
            earlier, present = present, self.now()
        return present

    def settle_at(self, expected: tuple) -> bool:
        """Whether things are as `expected`, at once or soon: some threads end by themselves."""
        deadline = time.monotonic() + 10
        while self.now() != expected and time.monotonic() < deadline:
            time.sleep(0.02)
        return self.now() == expected


@pytest.fixture(scope="session")
def data(tmp_path_factory) -> Data:
    return Data(tmp_path_factory.mktemp("data")).write()


@pytest.fixture
def broken(tmp_path):
    """A function that writes the data with some samples replaced by other bytes."""
    return lambda damage: Data(tmp_path).write(damage)


@pytest.fixture
def resources() -> Resources:
    return Resources()
