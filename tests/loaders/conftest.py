"""One small dataset in two forms, and helpers for tests of several back ends."""

import dataclasses
import functools
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
from fastimae.loaders.beton.trailer import make_trailer
from fastimae.loaders.images.crops import draw_windows
from fastimae.loaders.order.sampler import Sampler
from fastimae.loaders.settings import LoaderSettings

COUNT, CLASSES, BATCH, SIZE = 42, 3, 8, (24, 32)
RATIO = (3 / 4 * SIZE[1] / SIZE[0], 4 / 3 * SIZE[1] / SIZE[0])
"""Bounds of width / height, in pixels."""
SETTINGS = {"batch_size": BATCH, "input_size": SIZE, "mix_group": 4, "seed": 5}


trailer_of = functools.cache(make_trailer)


@functools.cache
def jpeg(seed: int) -> bytes:
    """Encode a picture with smooth and sharp parts; sizes vary, and one in seven is gray."""
    rng = np.random.default_rng(seed)
    height, width = rng.integers(20, 90, 2)
    rough = Image.fromarray(rng.integers(0, 256, (5, 6, 3), dtype=np.uint8))
    image = rough.resize((width, height), Image.Resampling.BILINEAR)
    image = image.convert("L") if seed % 7 == 0 else image
    file = io.BytesIO()
    image.save(file, "JPEG", quality=90, subsampling=seed % 3)
    return file.getvalue()


@functools.cache
def crop_of(payload: bytes, key: int, channels: int) -> np.ndarray:
    """Crop an image by `key`, with torchvision."""
    image = Image.open(io.BytesIO(payload)).convert("RGB" if channels == 3 else "L")
    windows, flip = draw_windows(np.array([key]), [image.height], [image.width], (0.2, 1.0), RATIO)
    image = resized_crop(image, *windows[0].tolist(), SIZE, InterpolationMode.BICUBIC)
    return np.asarray(hflip(image) if flip[0] else image).reshape(*SIZE, channels)


class FileDataset:
    """A user's dataset of image files, in the style of torchvision's."""

    def __init__(self, paths: list[Path], targets: list[int]) -> None:
        self.paths, self.targets = paths, targets

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> tuple[Image.Image, int]:
        return Image.open(self.paths[index]), self.targets[index]


class Data:
    """The same images as files in class folders and as a .beton, both in the same order."""

    count, batch_size, settings = COUNT, BATCH, SETTINGS

    def __init__(self, root: Path) -> None:
        self.folder, self.beton = root / "images", root / "images.beton"
        self.names = [f"class{i * CLASSES // COUNT}/{i:03d}.jpg" for i in range(COUNT)]
        self.labels = [i * CLASSES // COUNT for i in range(COUNT)]
        self.payloads = [jpeg(i) for i in range(COUNT)]
        self._epochs: dict[tuple[str, int], list[Batch]] = {}

    def write(self, broken: dict[int, bytes] | None = None) -> Self:
        """Write both forms; samples in `broken` get those bytes, as if damaged after conversion."""
        with BetonWriter(self.beton) as writer:
            for i, good in enumerate(self.payloads):
                data = (broken or {}).get(i, good)
                file = self.folder / self.names[i]
                file.parent.mkdir(parents=True, exist_ok=True)
                file.write_bytes(data)
                width, height = Image.open(io.BytesIO(good)).size
                writer.append(
                    data, height=height, width=width, label=self.labels[i],
                    trailer=trailer_of(good),
                )  # fmt: skip
        return self

    def loader(self, back_end: str, **settings) -> Loader:
        """Make the loader for a name like "pillow-3": back end and number of workers."""
        name, workers = back_end.split("-")
        source = {
            "pillow": {"ffcv": self.beton, "decoder": "pillow"},
            "native": {"ffcv": self.beton, "decoder": "native"},
            "ffcv": {"ffcv": self.beton, "decoder": "ffcv"},
            "device": {"ffcv": self.beton, "cache": "device"},
            "dali": {"dali": self.beton},
            "dalifolder": {"dali": self.folder},
            "dalishare": {"ffcv": self.beton, "dali_share": 0.4},
            "folder": {"data_path": self.folder},
            "dataset": {"dataset": self.dataset()},
            "synthetic": {"synthetic": True, "synthetic_samples": COUNT},
        }[name]
        return create_loader(**source, num_workers=int(workers), **{**SETTINGS, **settings})

    def epoch(self, back_end: str, epoch: int) -> list[Batch]:
        """Return the batches of an epoch, which are made once: tests only read them."""
        if (back_end, epoch) not in self._epochs:
            with self.loader(back_end) as loader:
                loader.set_epoch(epoch)
                self._epochs[back_end, epoch] = list(loader)
        return self._epochs[back_end, epoch]

    def dataset(self) -> FileDataset:
        """Return the files as a user's dataset."""
        return FileDataset([self.folder / name for name in self.names], self.labels)

    def sampler(self, **settings) -> Sampler:
        """Make the sampler of a loader with these settings."""
        defaults = {"batch_size": BATCH, "mix_group": 4, "seed": 5}
        return Sampler(np.array(self.labels), LoaderSettings(**{**defaults, **settings}))

    @staticmethod
    def same(first: list[Batch], second: list[Batch]) -> bool:
        """Return whether all fields of all batches are equal."""
        return len(first) == len(second) and all(
            torch.equal(getattr(a, field.name), getattr(b, field.name))
            for a, b in zip(first, second, strict=True)
            for field in dataclasses.fields(Batch)
        )

    @staticmethod
    def shows(back_end: str, pixels: torch.Tensor, expected: np.ndarray) -> bool:
        """Return whether `pixels` are exactly as expected; DALI's may differ by its rounding."""
        if not back_end.startswith("dali"):
            return np.array_equal(pixels, expected)
        return np.abs(pixels.numpy().astype(int) - expected).mean() < 0.5

    def reference(self, index: int, key: int, used: int, channels: int = 3) -> np.ndarray:
        """Crop sample `used` by `key`, with torchvision."""
        return crop_of(self.payloads[used], int(key), channels)


class Resources:
    """Threads, child processes and open files of this process."""

    @staticmethod
    def now() -> tuple:
        threads = sorted(thread.name for thread in threading.enumerate())
        children = multiprocessing.active_children()
        return threads, len(children), len(list(Path("/proc/self/fd").iterdir()))

    def at_rest(self) -> tuple:
        """Wait until nothing of earlier work is still ending; return what is there then."""
        earlier, present = None, self.now()
        while present != earlier:
            time.sleep(0.1)
            earlier, present = present, self.now()
        return present

    def settle_at(self, expected: tuple) -> bool:
        """Return whether `now` is as `expected`, maybe after a moment: some threads end late."""
        deadline = time.monotonic() + 10
        while self.now() != expected and time.monotonic() < deadline:
            time.sleep(0.02)
        return self.now() == expected


@pytest.fixture(scope="session")
def data(tmp_path_factory) -> Data:
    return Data(tmp_path_factory.mktemp("data")).write()


@pytest.fixture
def broken(tmp_path):
    """Return a function that writes the data with some samples replaced by other bytes."""
    return lambda damage: Data(tmp_path).write(damage)


@pytest.fixture
def resources() -> Resources:
    return Resources()
