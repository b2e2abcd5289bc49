"""Damage anywhere in a `.beton` file: a sample is as it was written, or is bad for all readers.

There are two exceptions. Files from before the table had a checksum may have another label. Files
without checksums, like those of the ffcv library, give whatever their damaged JPEGs decode to; it
is the same for all readers.
"""

import dataclasses
import functools
import io
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest
from back_ends import INSTALLED
from hypothesis import given, settings
from hypothesis import strategies as st
from older_beton import older_beton, older_trailer
from PIL import Image
from torchvision.transforms import InterpolationMode
from torchvision.transforms.functional import hflip, resized_crop

from fastimae.loaders import BetonWriter, DataError, create_loader, native_library
from fastimae.loaders.beton.image import open_sample
from fastimae.loaders.beton.reader import BetonReader
from fastimae.loaders.beton.trailer import make_trailer
from fastimae.loaders.convert.verify import check_sample, samples_of
from fastimae.loaders.images.crops import Crops

COUNT, PAGE, SIZE = 8, 1 << 13, (16, 24)
NAMES = [f"class {number}" for number in range(COUNT)]
MODES = ["jpg", "jpg", "jpg", "raw"] * 2
EXACT = ["pillow", *(["native"] if native_library.load() else [])]
READERS = [*EXACT, *(["dali"] if "nvidia-dali" in INSTALLED else [])]


@functools.cache
def pictures() -> list[tuple[bytes, Image.Image]]:
    """Make the bytes and the image of each sample. One is gray, two are progressive."""
    found = []
    for number, mode in enumerate(MODES):
        rng = np.random.default_rng(number)
        rough = Image.fromarray(rng.integers(0, 256, (5, 6, 3), dtype=np.uint8))
        image = rough.resize(rng.integers(24, 45, 2).tolist(), Image.Resampling.BICUBIC)
        data = image.tobytes()
        if mode == "jpg":
            file, image = io.BytesIO(), image.convert("L" if number == 4 else "RGB")
            image.save(file, "JPEG", quality=85, subsampling=number % 3, progressive=number > 4)
            data, image = file.getvalue(), Image.open(file).convert("RGB")
        found.append((data, image))
    return found


def write_present(path: Path) -> None:
    """Write as the converter does, except that no trailer vouches for some of the JPEGs."""
    with BetonWriter(path, page_size=PAGE, capacity=COUNT, class_names=NAMES) as writer:
        for number, (data, image) in enumerate(pictures()):
            size = {"height": image.height, "width": image.width}
            trailer = None
            if number in (1, 2, 5) and native_library.load():
                trailer = make_trailer(data, native_library.inspect_jpeg(data).rows, 3)
            writer.append(data, **size, mode=MODES[number], label=number, trailer=trailer)


def write_older(path: Path, trailer=older_trailer) -> None:
    samples = [
        (data, image.height, image.width, MODES[number], number, trailer(data))
        for number, (data, image) in enumerate(pictures())
    ]
    path.write_bytes(older_beton(samples, PAGE))


def write_bare(path: Path) -> None:
    write_older(path, trailer=lambda data: b"")


WRITERS = {"present": write_present, "older": write_older, "bare": write_bare}


@dataclasses.dataclass
class Written:
    """A file without damage."""

    path: Path
    data: bytes
    regions: list[tuple[int, int]]
    """Start and end of each sample with its trailer."""
    rows: list[tuple]
    """The table's row of each sample."""

    @property
    def kind(self) -> str:
        return self.path.stem

    @functools.cached_property
    def places(self) -> dict[str, Sequence[int]]:
        """Return positions in the file, by what is stored there."""
        metadata, size, count = 24 + 2 * 1041, len(self.data), len(self.regions)
        ends = np.array(
            [end - row[-1] for (_, end), row in zip(self.regions, self.rows, strict=True)]
        )
        return {
            "anything": range(size),
            "labels": range(metadata + 16, metadata + 24 * count, 24),
            "ends of samples": (ends[:, None] + np.arange(-30, 10)).ravel().tolist(),
            "tables": [*range(64), *range(self.regions[-1][1], size)],
        }

    def touched(self, data: bytes) -> set[int]:
        """Return the samples whose bytes or trailers differ in `data`."""
        return {i for i, (a, b) in enumerate(self.regions) if data[a:b] != self.data[a:b]}

    def same_table(self, data: bytes) -> bool:
        start, end = self.regions[0][0], self.regions[-1][1]
        return (data[:start], data[end:]) == (self.data[:start], self.data[end:])


@pytest.fixture(scope="module", params=WRITERS)
def written(request, tmp_path_factory) -> Written:
    path = tmp_path_factory.mktemp("written") / f"{request.param}.beton"
    WRITERS[request.param](path)
    with BetonReader(path) as reader:
        rows = rows_of(reader)
        starts, ends = zip(*((row[0], row[0] + row[1] + row[-1]) for row in rows), strict=True)
    return Written(path, path.read_bytes(), list(zip(starts, ends, strict=True)), rows)


def rows_of(reader: BetonReader) -> list[tuple]:
    columns = [column.tolist() for name, column in reader.columns().items() if name != "file"]
    return list(zip(*columns, strict=True))


@dataclasses.dataclass
class Damage:
    """Damage to `length` bytes of a file, from one of its places."""

    kind: str
    place: str
    number: int
    length: int
    value: int

    def __call__(self, written: Written) -> bytes:
        data, places = written.data, written.places[self.place]
        start = places[self.number % len(places)]
        end = min(start + self.length, len(data))
        other = self.value * 61 % (len(data) - self.length)
        if self.kind == "flip":
            changed = bytes([data[start] ^ 1 << self.value % 8]) + data[start + 1 : end]
        else:
            changed = bytes(end - start) if self.kind == "zeros" else data[other:][: end - start]
        return data[:start] if self.kind == "cut" else data[:start] + changed + data[end:]


damages = st.builds(
    Damage,
    kind=st.sampled_from(["flip", "flip", "zeros", "zeros", "copy", "copy", "cut"]),
    place=st.sampled_from(["anything", "labels", "ends of samples", "tables"]),
    number=st.integers(0, 2**20),
    length=st.sampled_from([1, 2, 16, 200, 1000, 3000]),
    value=st.integers(0, 255),
)


@dataclasses.dataclass
class View:
    """One batch of all samples of a file, as a reader sees them."""

    bad: set[int]
    crops: dict[int, tuple[int, int, np.ndarray]]
    """Label, key and pixels of each other sample."""


def look(path: Path, back_end: str, count: int) -> View:
    source = {"dali": path} if back_end == "dali" else {"ffcv": path, "decoder": back_end}
    loader = create_loader(
        **source, batch_size=count, mix_group=0, input_size=SIZE, num_workers=0, seed=3
    )
    with loader:
        try:
            batch = next(iter(loader))
        except DataError as error:
            assert f"all {count} samples of a batch are bad" in str(error)
            return View(set(range(count)), {})
        fields = (batch.index, batch.labels, batch.key, batch.images)
        rows = zip(*(field.numpy() for field in fields), strict=True)
        asked = loader.sampler.step(0, 0).index
        assert not loader.bad.keys() & set(batch.index.tolist())
        crops = {
            int(index): (int(label), int(key), pixels)
            for wanted, (index, label, key, pixels) in zip(asked, rows, strict=True)
            if wanted == index
        }
        assert crops.keys() == set(range(count)) - loader.bad.keys()
        return View(set(loader.bad), crops)


def expected(index: int, key: int) -> np.ndarray:
    """Crop a sample as it was written, with torchvision."""
    image = pictures()[index][1]
    windows, flip = Crops(size=SIZE).draw(np.array([key]), [image.height], [image.width])
    image = resized_crop(image, *windows[0].tolist(), SIZE, InterpolationMode.BICUBIC)
    return np.asarray(hflip(image) if flip[0] else image)


def shows(back_end: str, pixels: np.ndarray, others: np.ndarray) -> bool:
    """Return whether pixels are equal; DALI's may differ by its rounding."""
    if back_end in EXACT:
        return np.array_equal(pixels, others)
    return np.abs(pixels.astype(int) - others).mean() < 0.5


def opened(reader: BetonReader) -> Iterator[np.ndarray | None]:
    """Yield each full image; None if it is bad for Pillow."""
    for index in range(len(reader)):
        try:
            yield np.asarray(open_sample(reader, index).convert("RGB"))
        except Exception:
            yield None


def check(written: Written, data: bytes, path: Path, back_ends: list[str]) -> bool:
    """Return whether a damaged file can be opened; if so, assert all that this module promises."""
    path.write_bytes(data)
    try:
        with BetonReader(path) as reader:
            rows, images = rows_of(reader), list(opened(reader))
            assert reader.class_names == (NAMES if written.kind == "present" else [])
            problems = list(map(check_sample, samples_of(reader)))
    except DataError as error:
        assert str(path) in str(error) and "\n" not in str(error)
        return False
    bad = {index for index, image in enumerate(images) if image is None}
    assert {index for index, problem in enumerate(problems) if problem is not None} == bad
    if written.kind == "present" or (written.kind == "older" and written.same_table(data)):
        assert bad == written.touched(data)
    pairs = enumerate(zip(rows, written.rows, strict=False))
    as_written = {i for i, (row, other) in pairs if row == other} - written.touched(data) - bad
    for index in as_written:
        assert np.array_equal(images[index], np.asarray(pictures()[index][1]))
    views = {back_end: look(path, back_end, len(rows)) for back_end in back_ends}
    for back_end, view in views.items():
        assert view.bad == bad, back_end
        for index, (label, key, pixels) in view.crops.items():
            first_label, _, first_pixels = views[back_ends[0]].crops[index]
            assert label == first_label and shows(back_end, pixels, first_pixels), back_end
            if index in as_written:
                assert shows(back_end, pixels, expected(index, key)), back_end
                assert label == index or written.kind != "present"
    return True


@settings(max_examples=300)
@given(damages)
def test_damage_reaches_no_batch(written, tmp_path_factory, damage):
    path = tmp_path_factory.mktemp("damaged") / "damaged.beton"
    check(written, damage(written), path, EXACT)


@pytest.mark.skipif("dali" not in READERS, reason="DALI is not installed")
@settings(max_examples=12)
@given(damages)
def test_damage_reaches_no_batch_of_dali(written, tmp_path_factory, damage):
    path = tmp_path_factory.mktemp("damaged") / "damaged.beton"
    check(written, damage(written), path, READERS)
