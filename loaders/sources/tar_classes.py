"""Classes of images in tar files by their folders, as if the archives were unpacked.

Inside the top folder the rules of `folders.py` hold. Which folder is the top one has to be worked
out, as an archive often wraps everything in another folder (the rules are also in docs/sources.md):

1. It is the innermost folder around all images of all archives.
2. Exception: several archives may be parts of one data set. They are if each has its own innermost
   folder, none inside another's, and some class folder in each appears in another archive by name.
   Then each of these is a top folder, and classes with the same name are merged.
"""

from __future__ import annotations

import posixpath
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from itertools import pairwise, takewhile

from fastimae.loaders.image_location import ImageLocation, Source, printable
from fastimae.loaders.sources.folders import NO_CLASS, SPLITS, check_not_parts

_Folder = tuple[str, ...]
"""Path of a folder as its parts."""
_Tops = dict[str, _Folder]
"""The top folder in each archive, by path of the archive."""
_Folders = dict[str, set[_Folder]]
"""Folders in each archive, by path of the archive."""


def by_folder(
    images: Sequence[ImageLocation],
    folders: Mapping[str, set[str]],
    image_folders: Mapping[str, set[str]],
) -> Source:
    """Label images by their folders; of splits only train is used.

    Args:
        folders: those in each archive, by its path (see `Archive`).
        image_folders: those of them with images, readable or not.
    """
    tree = _Tree(images, folders, image_folders)
    classes = [tree.class_of(image) for image in images]
    labelled = list(zip(images, classes, strict=True))
    skipped = [(image.name, NO_CLASS) for image in images if tree.is_above(image)]
    notes = list(map(printable, tree.notes))
    if not any(classes):
        items = [image for image, name in labelled if name is not None]
        kind = f"tar files without labels{tree.part}"
        return Source(kind=kind, items=items, skipped=skipped, notes=notes)
    names = sorted(tree.names())
    number_of = {name: number for number, name in enumerate(names)}
    source = Source(
        kind=f"tar files with class folders{tree.part}",
        items=[image for image, name in labelled if name],
        labels=[number_of[name] for name in classes if name],
        class_names=names,
        skipped=skipped + [(image.name, NO_CLASS) for image, name in labelled if name == ""],
        notes=notes,
    )
    check_not_parts(source, ", ".join(folders))
    return source


class _Tree:
    """The folders of all archives, and the top one among them."""

    def __init__(
        self,
        images: Sequence[ImageLocation],
        folders: Mapping[str, set[str]],
        image_folders: Mapping[str, set[str]],
    ) -> None:
        self.notes: list[str] = []
        self.part = ""
        """In words, if only one of several splits is used."""
        self._folders = {path: set(map(_parts, names)) for path, names in folders.items()}
        self._used: _Folders = {path: set() for path in folders}
        for path, folder in {(image.path, posixpath.dirname(image.member)) for image in images}:
            self._used[path].add(_parts(folder))
        with_images = {path: set(map(_parts, names)) for path, names in image_folders.items()}
        separate = {path: _innermost_around(folders) for path, folders in with_images.items()}
        self._tops: _Tops = dict.fromkeys(folders, _innermost_around(separate.values()))
        if not self._is_train_a_split() and _are_parts(separate, with_images):
            self._tops = separate
            self.notes.append(
                f"{len(separate)} tar files, each with all images in a separate folder, are parts "
                "of one data set: the classes are in these folders"
            )
        while self._is_train_a_split():
            self.part = printable(f", train/ only (of {', '.join(sorted(self._used_names()))})")
            self._tops = {path: (*top, "train") for path, top in self._tops.items()}
        if "train" in self.names():
            other = min(self._used_names() - {"train"})
            self.notes.append(f"treating train/ as a class, as {other}/ has images too")

    def names(self) -> set[str]:
        """Return the names of all class folders."""
        return _below(self._tops, self._folders)

    def class_of(self, image: ImageLocation) -> str | None:
        """Name an image's class folder; "" directly in the top folder, None outside it."""
        top, folder = self._locate(image)
        if folder[: len(top)] != top:
            return None
        return folder[len(top)] if len(folder) > len(top) else ""

    def is_above(self, image: ImageLocation) -> bool:
        """Return whether an image is beside the folders of splits, above the top folder."""
        top, folder = self._locate(image)
        return len(folder) < len(top) and folder == top[: len(folder)]

    def _locate(self, image: ImageLocation) -> tuple[_Folder, _Folder]:
        """Return the top folder of an image's archive, and the image's folder."""
        return self._tops[image.path], _parts(posixpath.dirname(image.member))

    def _used_names(self) -> set[str]:
        """Return the names of the folders in the top one that have images."""
        return _below(self._tops, self._used)

    def _is_train_a_split(self) -> bool:
        others = self._used_names() - {"train"}
        return "train" in self.names() and (not others or not SPLITS.isdisjoint(others))


def _parts(folder: str) -> _Folder:
    return tuple(part for part in folder.split("/") if part not in ("", "."))


def _innermost_around(folders: Collection[_Folder]) -> _Folder:
    """Return the innermost folder around all of `folders`."""
    first, last = min(folders, default=()), max(folders, default=())
    same = takewhile(lambda pair: pair[0] == pair[1], zip(first, last, strict=False))
    return tuple(name for name, _ in same)


def _below(tops: _Tops, folders: _Folders) -> set[str]:
    """Return the names of the folders directly in the top ones."""
    return {
        folder[len(top)]
        for path, top in tops.items()
        for folder in folders[path]
        if len(folder) > len(top) and folder[: len(top)] == top
    }


def _are_parts(separate: _Tops, folders: _Folders) -> bool:
    """Return whether the archives are parts of one data set (rule 2)."""
    ordered = sorted(separate.values())
    if len(separate) < 2 or any(b[: len(a)] == a for a, b in pairwise(ordered)):
        return False
    classes = [_below({path: top}, folders) for path, top in separate.items()]
    in_archives = Counter(name for names in classes for name in names)
    return all(any(in_archives[name] > 1 for name in names) for names in classes)
