"""Labels of ImageNet's validation images, which are published in a separate file.

That file is one of

- the devkit, `ILSVRC2012_devkit_t12.tar.gz` or the folder it unpacks to: line k of the ground truth
  is the ILSVRC2012_ID of image k. These numbers are not labels, so meta.mat, which maps them to
  classes, must be there too;
- `ILSVRC2012_validation_ground_truth.txt`, with meta.mat in the same folder, in data/ or ../data/;
- Kaggle's `LOC_val_solution.csv`: the image, and boxes that each begin with the class.

Classes are named by their WordNet number (n01440764), as in the folders of the training images, and
a label is the class's position in the sorted list, as there.
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
from fastimae.loaders.image_location import ImageLocation, Source, printable

_NAME = re.compile(r"(ILSVRC2012_(val|test)_(\d{8}))\.\w+")
_WNID = re.compile(r"n\d{8}")
_TRUTH, _META = "ILSVRC2012_validation_ground_truth.txt", "meta.mat"
_CSV_HEADER = b"ImageId,PredictionString"
_PAIR = re.compile(rb"[^\0\r\n]*\S[ \t]+\d+[ \t]*\r?(\n|$)")
"""A line of Caffe's val.txt, or of a list file."""
_LARGEST = 64 << 20
"""Most bytes that are read of a label file: far more than any has."""
_FILES = "ILSVRC2012_devkit_t12.tar.gz or Kaggle's LOC_val_solution.csv"


class _Labels(NamedTuple):
    """The content of a label file."""

    class_of: dict[str, str]
    """The class of each image, by the image's name."""
    names: list[str]
    """All classes, sorted."""


def hint_for(name: str) -> str:
    """Say how to get labels for a file of this name; "" if it is not one of ImageNet's."""
    match = _NAME.fullmatch(PurePosixPath(name).name)
    if match is None:
        return ""
    if match[2] == "test":
        return "these are ImageNet's test images, whose labels were never published"
    return (
        "these are ImageNet's validation images, whose labels are in a separate file: "
        f"fastimae-convert SRC OUT.beton --labels FILE, where FILE is {_FILES}"
    )


def label_images(source: Source, path: Path) -> None:
    """Label the images of a source without labels from a label file.

    Raises:
        DataError: the file is of none of the kinds above, or does not fit the images.
    """
    if source.labels is not None:
        raise DataError(f"--labels {path}: SRC already has labels ({source.kind})")
    labels = _read(path)
    images = [_image_name(item) for item in source.items]
    unknown = [name for name in images if name not in labels.class_of]
    if unknown:
        raise DataError(
            f"--labels {path}: no label for {len(unknown)} of the {len(images)} images, such as "
            f"{printable(unknown[0])}; it is for files called ILSVRC2012_val_00000001.JPEG"
        )
    if len(set(images)) < len(images):
        raise DataError(f"--labels {path}: SRC has images of the same name in several folders")
    number_of = {name: number for number, name in enumerate(labels.names)}
    source.labels = [number_of[labels.class_of[name]] for name in images]
    source.class_names = labels.names
    source.kind = "ImageNet's validation images"
    if len(images) < len(labels.class_of):
        count = len(labels.class_of)
        source.notes.append(f"{path} has labels for {count} images; SRC has {len(images)} of them")


def _image_name(item: ImageLocation) -> str:
    """Return the image's name in label files; for other files, the file name."""
    name = PurePosixPath(item.member or item.path).name
    match = _NAME.fullmatch(name)
    return match[1] if match else name


def _read(path: Path) -> _Labels:
    try:
        if path.is_dir():
            return _parse_devkit(path, *_read_folder(path))
        content = _read_bytes(path).removeprefix(codecs.BOM_UTF8)
        if tarfile.is_tarfile(path):
            return _parse_devkit(path, *_read_archive(path))
        if content.startswith(_CSV_HEADER):
            return _parse_csv(path, content)
        if not all(word.isdigit() for word in content.split(maxsplit=1)[:1]):
            raise _unknown_kind(path, content)
        return _parse_devkit(path, content, _read_meta_of(path))
    except (OSError, EOFError, zlib.error, tarfile.TarError) as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        raise DataError(f"--labels {path}: cannot be read ({reason})") from error


def _unknown_kind(path: Path, content: bytes) -> DataError:
    """Make the error for a file that starts with neither a number nor Kaggle's header."""
    if _PAIR.match(content):
        return DataError(
            f"--labels {path}: each line is a path and a label, so it is a list file: give it as "
            "SRC instead, from the folder that its paths are relative to"
        )
    return DataError(f"--labels {path}: not a label file; give {_FILES}")


def _read_folder(root: Path) -> tuple[bytes, bytes]:
    """Read the ground truth and meta.mat of an unpacked devkit."""
    truth = next(iter(sorted(root.rglob(_TRUTH))), None)
    if truth is None:
        raise DataError(f"--labels {root}: no {_TRUTH} in it; give {_FILES}")
    return _read_bytes(truth), _read_meta_of(truth)


def _read_meta_of(truth: Path) -> bytes:
    """Read the meta.mat that belongs to a ground truth file."""
    folders = (truth.parent, truth.parent / "data", truth.parent.parent / "data")
    for meta in (folder / _META for folder in folders):
        if meta.is_file():
            return _read_bytes(meta)
    raise DataError(
        f"--labels {truth}: its numbers are not labels, and the devkit's {_META}, which maps them "
        f"to classes, is not beside it; give {_FILES}"
    )


def _read_archive(path: Path) -> tuple[bytes, bytes]:
    """Read the ground truth and meta.mat of the devkit as downloaded."""
    parts: dict[str, bytes] = {}
    with tarfile.open(path) as archive:
        for member in archive:
            name = PurePosixPath(member.name).name
            if name in (_TRUTH, _META) and member.isreg() and member.size <= _LARGEST:
                parts[name] = archive.extractfile(member).read()
    if len(parts) < 2:
        missing = " and ".join(sorted({_TRUTH, _META} - parts.keys()))
        raise DataError(f"--labels {path}: no {missing} in it; give {_FILES}")
    return parts[_TRUTH], parts[_META]


def _read_bytes(path: Path) -> bytes:
    if not path.is_file():  # opening a named pipe would block forever
        raise DataError(f"--labels {path}: there is no such file")
    with path.open("rb") as file:
        return file.read(_LARGEST)


def _parse_devkit(path: Path, truth: bytes, meta: bytes) -> _Labels:
    """Combine the ground truth, whose line k is the ID of image k, with the classes of meta.mat."""
    class_of = _synsets(path, meta)
    numbers = truth.decode("ascii", "replace").split()
    for line, number in enumerate(numbers, 1):
        if not number.isdecimal() or int(number) not in class_of:
            raise DataError(
                f"--labels {path}: line {line} of the ground truth is {printable(number[:20])!r}, "
                f"not the ILSVRC2012_ID of any of the {len(class_of)} classes; give {_FILES}"
            )
    images = {
        f"ILSVRC2012_val_{line:08d}": class_of[int(number)]
        for line, number in enumerate(numbers, 1)
    }
    return _Labels(images, sorted(class_of.values()))


def _synsets(path: Path, meta: bytes) -> dict[int, str]:
    """Map ILSVRC2012_ID to WordNet number, for synsets without children: these are the classes."""
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
        raise DataError(f"--labels {path}: {_META} is damaged, or not ImageNet's") from error


def _parse_csv(path: Path, content: bytes) -> _Labels:
    """Read lines `ILSVRC2012_val_00048981,n03995372 85 1 499 272 ...` after the header."""
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
