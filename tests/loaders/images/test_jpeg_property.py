"""All decoders agree on which files are bad and on the picture, with any number of threads.

The files are random, of many kinds, and damaged at random. The engine agrees with Pillow bit by
bit; DALI does within the rounding of its resize.
"""

import dataclasses
import random
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
import torch
from back_ends import INSTALLED
from jpeg_kinds import KINDS, SOUND, damage, draw
from jpeg_writer import Spec, write

from fastimae.loaders import BetonWriter, create_loader, native_library
from fastimae.loaders.beton.reader import BetonReader
from fastimae.loaders.beton.trailer import make_trailer
from fastimae.loaders.convert.run import ConvertOptions, convert
from fastimae.loaders.images import crops

pytestmark = pytest.mark.skipif(native_library.load() is None, reason=native_library.why_missing())

COUNT, SIZE = 48, (20, 24)
SETTINGS = {"batch_size": COUNT // 2, "input_size": SIZE, "mix_group": 4}
THREADS = 0, 1, 3
HAS_DALI = "nvidia-dali" in INSTALLED
BACK_ENDS = ["pillow", "native", *["dali"] * HAS_DALI]

# Of 255, on average over an image and over all: DALI's resize on noise. Pillow clips to 0..255
# between its two passes, DALI only after both. Without a resize, DALI is compared bit by bit.
ROUNDING_OF_AN_IMAGE, ROUNDING_OF_ALL = 4.0, 0.5


class Sample(NamedTuple):
    """A file before and after damage."""

    kind: str
    spec: Spec
    good: bytes
    found: bytes


class Seen(NamedTuple):
    """The results of a loader for all samples, in two epochs."""

    bad: dict[int, str]
    index: torch.Tensor
    images: torch.Tensor


def make(rng: random.Random, kinds, count: int = COUNT, harm: float = 0.0, **changes):
    """Make samples, of which a share `harm` is damaged."""
    samples = []
    for kind in rng.choices(list(kinds), k=count):
        spec = dataclasses.replace(draw(rng, kind), **changes)
        good = write(spec)
        found = damage(rng, good) if rng.random() < harm else good
        samples.append(Sample(kind, spec, good, found))
    return samples


def trailer_before_damage(sample: Sample) -> bytes:
    """Make the trailer that fastimae-convert wrote before the damage."""
    status, _, rows = native_library.inspect_jpeg(sample.good)
    return make_trailer(sample.good, rows, components=int(status == native_library.OK))


def trailer_after_damage(sample: Sample) -> bytes:
    """Make a correct trailer of the damaged file, which vouches for nothing."""
    return make_trailer(sample.found)


def no_trailer(sample: Sample) -> bytes:
    """Make no trailer, as in files of the ffcv library."""
    return b""


TRAILERS = [trailer_before_damage, trailer_after_damage, no_trailer]


def write_beton(path: Path, samples: list[Sample], trailer=no_trailer) -> Path:
    with BetonWriter(path, page_size=1 << 16, capacity=len(samples)) as writer:
        for sample in samples:
            size = {"height": sample.spec.height, "width": sample.spec.width}
            writer.append(sample.found, **size, trailer=trailer(sample))
    return path


def see(path: Path, back_end: str, threads: int, **settings) -> Seen:
    source = {"dali": path} if back_end == "dali" else {"ffcv": path, "decoder": back_end}
    with create_loader(**source, num_workers=threads, **SETTINGS | settings) as loader:
        batches = []
        for epoch in range(2):
            loader.set_epoch(epoch)
            batches += list(loader)
        index = torch.cat([batch.index for batch in batches])
        return Seen(loader.bad, index, torch.cat([batch.images for batch in batches]))


def agreed(path: Path, samples: list[Sample]) -> set[int]:
    """Return the bad samples, after checking that all back ends agree on everything."""
    pillow = see(path, "pillow", 0)
    for back_end in BACK_ENDS:
        first = see(path, back_end, THREADS[0])
        for i in first.bad.keys() ^ pillow.bad.keys():
            verdicts = f"{back_end}: {first.bad.get(i)}, Pillow: {pillow.bad.get(i)}"
            raise AssertionError(f"{verdicts}: {samples[i]}")
        assert torch.equal(first.index, pillow.index)
        assert_pictures_agree(back_end, first, pillow, samples)
        for threads in THREADS[1:]:
            again = see(path, back_end, threads)
            assert again.bad.keys() == first.bad.keys(), f"{back_end} with {threads} threads"
            assert torch.equal(again.images, first.images), f"{back_end} with {threads} threads"
    return set(pillow.bad)


def assert_pictures_agree(back_end: str, seen: Seen, pillow: Seen, samples: list[Sample]) -> None:
    error = np.abs(seen.images.numpy().astype(int) - pillow.images.numpy()).mean(axis=(1, 2, 3))
    allowed = ROUNDING_OF_AN_IMAGE if back_end == "dali" else 0
    worst = int(error.argmax())
    assert error[worst] <= allowed, f"{back_end}: {samples[int(seen.index[worst])]}"
    assert error.mean() <= ROUNDING_OF_ALL


@pytest.mark.parametrize("trailer", TRAILERS)
@pytest.mark.parametrize("seed", range(5))
def test_decoders_agree(tmp_path, seed, trailer):
    samples = make(random.Random(f"{trailer.__name__} {seed}"), KINDS, harm=0.5)
    bad = agreed(write_beton(tmp_path / "f.beton", samples, trailer), samples)
    changed = {i for i, sample in enumerate(samples) if sample.found != sample.good}
    sound = {i for i, sample in enumerate(samples) if sample.kind in SOUND} - changed
    assert not sound & bad
    if trailer is trailer_before_damage:
        assert changed <= bad


@pytest.mark.parametrize("trailer", TRAILERS)
def test_nothing_of_a_file_reaches_the_next(tmp_path, trailer):
    """Files without tables or scans come between files that have them."""
    kinds = ["no tables", "some tables", "progressive, last scans missing", "baseline"]
    samples = make(random.Random(trailer.__name__), kinds)
    assert not agreed(write_beton(tmp_path / "f.beton", samples, trailer), samples)


@pytest.mark.parametrize("seed", range(3))
def test_damage_to_a_beton_is_seen_in_the_samples_that_it_reaches(tmp_path, seed):
    rng = random.Random(seed)
    samples = make(rng, SOUND)
    path = write_beton(tmp_path / "f.beton", samples, trailer_before_damage)
    with BetonReader(path) as reader:
        starts, sizes = np.array([reader.region(i) for i in range(COUNT)]).T
        ends = starts + sizes + reader.trailer_sizes
    before = path.read_bytes()
    after = bytearray(before)
    for _ in range(4):
        start = rng.randrange(int(starts[0]), int(ends[-1]))
        count = min(rng.choice([1, 4, 300, 2000]), int(ends[-1]) - start)
        after[start : start + count] = rng.choice([bytes(count), rng.randbytes(count)])
    path.write_bytes(after)
    changed = {i for i in range(COUNT) if before[starts[i] : ends[i]] != after[starts[i] : ends[i]]}
    assert agreed(path, samples) == changed


@pytest.mark.skipif(not HAS_DALI, reason="DALI is not installed")
@pytest.mark.parametrize("width", [1, 2, 4, 24])
def test_dali_decodes_windows_to_the_bit(tmp_path, monkeypatch, width):
    """With windows of the crop size, so that nothing is resized."""

    def windows(key, heights, widths, scale, ratio):
        free = np.stack([heights, widths], axis=1) - size
        place = np.abs(key)[:, None] % (1 << 40) // [1, 1 << 20] % (free + 1)
        return np.hstack([place, np.tile(size, (len(key), 1))]), np.zeros(len(key), bool)

    size = (6, width)
    monkeypatch.setattr(crops, "draw_windows", windows)
    kinds = [*SOUND, *["progressive, last scans missing"] * 9]  # whose damage shows in few windows
    samples = make(random.Random(width), kinds, 4 * COUNT, height=33, width=43)
    path = write_beton(tmp_path / "f.beton", samples)
    seen, pillow = (see(path, back_end, 1, input_size=size) for back_end in ("dali", "pillow"))
    for i, image, expected in zip(seen.index.tolist(), seen.images, pillow.images, strict=True):
        assert torch.equal(image, expected), samples[i]


def test_verification_has_the_same_verdict(tmp_path):
    samples = make(random.Random(0), KINDS, 2 * COUNT, harm=0.5)
    path = write_beton(tmp_path / "f.beton", samples)
    report = convert(ConvertOptions(src=str(path), verify=True, workers=2))
    bad = see(path, "pillow", 0).bad
    assert {name for name, _ in report.bad} == {f"sample {i}" for i in bad}
