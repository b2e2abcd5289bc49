"""The warnings about images before a run: few bits used, crop windows that do not fit."""

import logging
import re

import numpy as np
import pytest
from back_ends import INSTALLED
from deep_images import (
    COLOURS16,
    GRAY12,
    GRAY16,
    RGB,
    UNRANGED_FILES,
    file_bytes,
    png16,
    tiff,
)
from PIL import Image

from fastimae.loaders import create_loader
from fastimae.loaders.convert.run import ConvertOptions, convert
from fastimae.loaders.images.depth import depth
from fastimae.loaders.images.limits import limited_to
from fastimae.loaders.order.epoch_steps import evenly_spaced
from fastimae.loaders.sources.survey import survey_files

ALONE = {"batch_size": 1, "mix_group": 0, "num_workers": 0}
READERS = ["data_path", *(["dali"] if "nvidia-dali" in INSTALLED else [])]
HINT = r"most of these use at most 12 of 16 bits and are dark: --value_range 0 4095 maps"
MAPPED = "mapped by --value_range 0 4095: 3"
KEPT = (
    r"3 have more than 8 bits, of which 8 are kept "
    r"\(12 of 16 bits of gray used: 2, 16 of 16 bits of gray used: 1\)"
)


@pytest.fixture
def logged(caplog, monkeypatch):
    """The lines logged so far as one text, except the description of the data set."""
    caplog.set_level(logging.INFO, "fastimae")
    monkeypatch.setattr(logging.getLogger("fastimae"), "propagate", True)
    return lambda: "\n".join(line for line in caplog.messages if "no labels" not in line)


@pytest.fixture
def mostly_dark(tmp_path):
    """Three 16-bit images, two of which use 12 bits, and an 8-bit one."""
    folder = tmp_path / "images"
    folder.mkdir()
    for name, pixels in {"a": GRAY12, "b": GRAY12, "c": GRAY16, "d": RGB}.items():
        (folder / f"{name}.png").write_bytes(file_bytes(pixels, "PNG"))
    return folder


@pytest.mark.parametrize("reader", READERS)
def test_a_small_part_of_16_bits_is_pointed_out_once(mostly_dark, logged, reader):
    create_loader(**{reader: mostly_dark}, **ALONE).close()
    assert len(re.findall(KEPT, logged())) == len(re.findall(HINT, logged())) == 1
    assert "of 4 images sampled" in logged()


def test_other_ranks_are_silent(mostly_dark, logged):
    create_loader(data_path=mostly_dark, **ALONE, rank=1, world_size=2).close()
    assert logged() == ""


def test_with_a_range_no_other_is_suggested(mostly_dark, logged):
    with limited_to(None, (0, 4095)):
        create_loader(data_path=mostly_dark, **ALONE).close()
    assert f"8 are kept ({MAPPED})" in logged() and not re.search(HINT, logged())


def test_images_of_8_bits_are_not_worth_a_line(tmp_path, logged):
    Image.fromarray(RGB).save(tmp_path / "a.png")
    create_loader(data_path=tmp_path, **ALONE).close()
    assert logged() == ""


def test_the_report_of_a_conversion_points_it_out(mostly_dark, tmp_path):
    options = {"src": str(mostly_dark), "out": tmp_path / "a.beton", "workers": 2}
    report = convert(ConvertOptions(**options))
    assert report.depths == {depth(12, 16): 2, depth(16, 16): 1}
    assert re.search(KEPT, report.summary()) and re.search(HINT, report.summary())
    report = convert(ConvertOptions(**options, value_range=(0, 4095), overwrite=True))
    assert f"  3 have more than 8 bits, of which 8 are kept ({MAPPED})" in report.summary()
    assert not re.search(HINT, report.summary())


@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
def test_dark_colours_are_pointed_out_without_a_flag_that_cannot_help(tmp_path, logged, kind):
    pixels = COLOURS16 >> 6
    alpha = np.full_like(GRAY16, 65535)
    data = png16(np.dstack([pixels, alpha]))
    if kind == "TIFF":
        data = tiff(pixels.tobytes(), (16, 16, 16), photometric=2)
    (tmp_path / "a.png").write_bytes(data)
    create_loader(data_path=tmp_path, **ALONE).close()
    assert "(10 of 16 bits a colour used: 1)" in logged()
    assert "--value_range cannot map colours, so scale 1023 to 255 with another tool" in logged()


def test_unreadable_images_are_not_counted(tmp_path, logged):
    for name, (data, _) in UNRANGED_FILES.items():
        (tmp_path / f"{name}.tif").write_bytes(data)
    create_loader(data_path=tmp_path, **ALONE).close()
    assert logged() == ""
    report = convert(ConvertOptions(src=str(tmp_path), out=tmp_path / "a.beton", workers=1))
    assert len(report.skipped) == len(UNRANGED_FILES) and "are kept" not in report.summary()


def test_few_images_are_opened_and_broken_ones_are_skipped():
    opened = []

    def open_image(index):
        opened.append(index)
        if index % 2:
            raise OSError("broken")
        return Image.fromarray(GRAY12)

    survey = survey_files(open_image, 1_000_000)
    assert len(opened) == 32 and len(survey.heights) == sum(i % 2 == 0 for i in opened)
    assert survey.depths == {depth(12, 16): 8}, "more were decoded than needed"


def test_evenly_spaced_numbers_have_both_ends():
    assert evenly_spaced(3, 32) == [0, 1, 2] and evenly_spaced(1, 32) == [0]
    assert evenly_spaced(10**9, 3) == [0, 499999999, 999999999]


WARNED = r"100 % of the random windows do not fit in images such as 32 x 256.*--crop_ratio.*--crop"


def wide_images(root):
    folder = root / "wide"
    folder.mkdir()
    for number in range(3):
        pixels = np.full((32, 256, 3), number, np.uint8)
        (folder / f"{number}.jpg").write_bytes(file_bytes(pixels, "JPEG"))
    convert(ConvertOptions(src=str(folder), out=root / "wide.beton", workers=1))
    return {"data_path": folder, "dali": folder, "ffcv": root / "wide.beton"}


@pytest.mark.parametrize(
    ("settings", "warns"),
    [
        ({"input_size": (32, 32)}, True),
        ({"input_size": (256, 32)}, True),
        ({"input_size": (32, 32), "crop": "none"}, False),
        ({"input_size": (32, 32), "crop_ratio": (0.5, 10)}, False),
        ({"input_size": (32, 32), "rank": 1, "world_size": 2}, False),
        ({"input_size": (16, 128)}, False),
    ],
    ids=["square", "tall", "none", "ratio", "rank", "wide"],
)
@pytest.mark.parametrize("reader", [*READERS, "ffcv"])
def test_windows_that_do_not_fit_are_pointed_out(tmp_path, logged, reader, settings, warns):
    create_loader(**{reader: wide_images(tmp_path)[reader]}, **ALONE, **settings).close()
    assert bool(re.search(WARNED, logged())) == warns, logged()
