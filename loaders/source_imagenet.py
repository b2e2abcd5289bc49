"""ImageNet's validation images as downloaded: their labels come in a file of their own.

That is one of

- the devkit, `ILSVRC2012_devkit_t12.tar.gz` or the folder it unpacks to: line k of the ground truth
  is the ILSVRC2012_ID of image k. These numbers are not labels, so meta.mat, which says what class
  each is, must be there, too;
- `ILSVRC2012_validation_ground_truth.txt`, with meta.mat in the same folder, in data/ or ../data/;
- `LOC_val_solution.csv` of Kaggle: the image, and boxes that each begin with the class.

A class is called by its WordNet number (n01440764), as are the folders of the training images, and
a label is the position in the sorted list of them, as there.
"""

from __future__ import annotations

import codecs
import io
import re
import tarfile
import zlib
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from fastimae.loaders.errors import DataError
from fastimae.loaders.items import Item, Source, shown

_NAME = re.compile(r"(ILSVRC2012_(val|test)_(\d{8}))\.\w+")
_WNID = re.compile(r"n\d{8}")
_TRUTH, _META = "ILSVRC2012_validation_ground_truth.txt", "meta.mat"
_CSV_HEADER = b"ImageId,PredictionString"
_PAIR = re.compile(rb"[^\0\r\n]*\S[ \t]+\d+[ \t]*\r?(\n|$)")
"""A line as of Caffe's val.txt, or of a list file."""
_LARGEST = 64 << 20
"""Bytes of a file with labels: far more than any has."""
_FILES = "ILSVRC2012_devkit_t12.tar.gz, or LOC_val_solution.csv of Kaggle"


class _Labels(NamedTuple):
    """The class of each image by the image's name."""

    of: dict[str, str]
    names: list[str]
    """All classes, sorted."""


def hint_for(name: str) -> str:
    """How to get labels for a file of this name; empty where it is not one of ImageNet's."""
    match = _NAME.fullmatch(PurePosixPath(name).name)
    if match is None:
        return ""
    if match[2] == "test":
        return "these are ImageNet's test images, of which no labels were published"
    return (
        "these are ImageNet's validation images, and their labels lie in a file of their own: "
        f"fastimae-convert SRC OUT.beton --labels FILE, which is {_FILES}"
    )


def label_images(source: Source, path: Path) -> None:
    """Give the images of a source without labels those that the file says.

    Raises:
        DataError: the file is none of those told above, or does not fit the images.
    """
    if source.labels is not None:
        raise DataError(f"--labels {path}: SRC has labels of its own ({source.kind})")
    labels = _read(path)
    images = [_image_name(item) for item in source.items]
    unknown = [name for name in images if name not in labels.of]
    if unknown:
        raise DataError(
            f"--labels {path}: has no label for {len(unknown)} of the {len(images)} images, as "
            f"{shown(unknown[0])}: it is for files called ILSVRC2012_val_00000001.JPEG"
        )
    if len(set(images)) < len(images):
        raise DataError(f"--labels {path}: SRC has images of the same name in several places")
    number_of = {name: number for number, name in enumerate(labels.names)}
    source.labels = [number_of[labels.of[name]] for name in images]
    source.class_names = labels.names
    source.kind = "ImageNet's validation images"
    if len(images) < len(labels.of):
        source.notes.append(f"{path} has labels of {len(labels.of)} images; {len(images)} are here")


def _image_name(item: Item) -> str:
    """As the labels' files call the image; the file's name where it is something else."""
    name = PurePosixPath(item.member or item.path).name
    match = _NAME.fullmatch(name)
    return match[1] if match else name


def _read(path: Path) -> _Labels:
    try:
        if path.is_dir():
            return _of_devkit(path, *_in_folder(path))
        content = _bytes_of(path).removeprefix(codecs.BOM_UTF8)
        if tarfile.is_tarfile(path):
            return _of_devkit(path, *_in_archive(path))
        if content.startswith(_CSV_HEADER):
            return _of_csv(path, content)
        if not all(word.isdigit() for word in content.split(maxsplit=1)[:1]):
            raise _of_no_known_kind(path, content)
        return _of_devkit(path, content, _beside(path))
    except (OSError, EOFError, zlib.error, tarfile.TarError) as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        raise DataError(f"--labels {path}: cannot be read ({reason})") from error


def _of_no_known_kind(path: Path, content: bytes) -> DataError:
    """The error for a file that starts with something else than a number or Kaggle's header."""
    if _PAIR.match(content):
        return DataError(
            f"--labels {path}: its lines are a path and a label each: that is a list file, to "
            "convert in the place of SRC; put it into the folder from which the paths lead"
        )
    return DataError(f"--labels {path}: is not one of those that are read: give {_FILES}")


def _in_folder(root: Path) -> tuple[bytes, bytes]:
    """Ground truth and meta.mat of an unpacked devkit."""
    truth = next(iter(sorted(root.rglob(_TRUTH))), None)
    if truth is None:
        raise DataError(f"--labels {root}: no {_TRUTH} in it; give {_FILES}")
    return _bytes_of(truth), _beside(truth)


def _beside(truth: Path) -> bytes:
    """The meta.mat that belongs to a ground truth."""
    folders = (truth.parent, truth.parent / "data", truth.parent.parent / "data")
    for meta in (folder / _META for folder in folders):
        if meta.is_file():
            return _bytes_of(meta)
    raise DataError(
        f"--labels {truth}: its numbers are not labels, and {_META} of the devkit, which says what "
        f"they are, is not beside it: give {_FILES}"
    )


def _in_archive(path: Path) -> tuple[bytes, bytes]:
    """Ground truth and meta.mat of the devkit as downloaded."""
    found: dict[str, bytes] = {}
    with tarfile.open(path) as archive:
        for member in archive:
            name = PurePosixPath(member.name).name
            if name in (_TRUTH, _META) and member.isreg() and member.size <= _LARGEST:
                found[name] = archive.extractfile(member).read()
    if len(found) < 2:
        lost = " and ".join(sorted({_TRUTH, _META} - found.keys()))
        raise DataError(f"--labels {path}: no {lost} in it; give {_FILES}")
    return found[_TRUTH], found[_META]


def _bytes_of(path: Path) -> bytes:
    if not path.is_file():  # opening a named pipe would wait for ever
        raise DataError(f"--labels {path}: there is no such file")
    with path.open("rb") as file:
        return file.read(_LARGEST)


def _of_devkit(path: Path, truth: bytes, meta: bytes) -> _Labels:
    """Line k of the ground truth is the ID of image k."""
    class_of = _synsets(path, meta)
    numbers = truth.decode("ascii", "replace").split()
    for line, number in enumerate(numbers, 1):
        if not number.isdecimal() or int(number) not in class_of:
            raise DataError(
                f"--labels {path}: line {line} of the ground truth is {shown(number[:20])!r}, not "
                f"the ILSVRC2012_ID of one of {len(class_of)} classes; give {_FILES}"
            )
    images = {
        f"ILSVRC2012_val_{line:08d}": class_of[int(number)]
        for line, number in enumerate(numbers, 1)
    }
    return _Labels(images, sorted(class_of.values()))


def _synsets(path: Path, meta: bytes) -> dict[int, str]:
    """ILSVRC2012_ID -> WordNet number, of those that are classes: they have no children."""
    try:
        from scipy.io import loadmat
    except ImportError as error:
        raise DataError(f"--labels {path}: {_META} needs scipy: pip install scipy") from error
    try:
        rows = loadmat(io.BytesIO(meta), squeeze_me=True)["synsets"]
        return {
            int(row["ILSVRC2012_ID"]): str(row["WNID"]) for row in rows if not row["num_children"]
        }
    except Exception as error:  # a damaged file makes loadmat raise nearly anything
        raise DataError(f"--labels {path}: {_META} is damaged, or of something else") from error


def _of_csv(path: Path, content: bytes) -> _Labels:
    """Lines `ILSVRC2012_val_00048981,n03995372 85 1 499 272 ...` behind a header."""
    images = {}
    for number, line in enumerate(content.decode("ascii", "replace").splitlines()[1:], 2):
        if not line.strip():
            continue
        name, _, boxes = line.partition(",")
        class_name = boxes.partition(" ")[0]
        if not _WNID.fullmatch(class_name):
            raise DataError(f"--labels {path}: line {number} names no class such as n01440764")
        images[name] = class_name
    return _Labels(images, sorted(set(images.values())))
