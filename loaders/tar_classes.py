"""The classes of images in tar files: their folders, as if unpacked.

The rules for what is in the top folder are those of `source_folders`; which folder that is must be
found out, as an archive often holds one around all (also told in docs/sources.md):

1. It is the innermost folder around all images of all archives.
2. But where each of several archives has such a folder of its own, beside the others', and in it
   class folders of which one is in another archive by name, too, these are parts of one data set:
   all of them are the top folder, and classes of the same name are one.
"""

from __future__ import annotations

import posixpath
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from itertools import pairwise, takewhile

from fastimae.loaders.items import Item, Source, shown
from fastimae.loaders.source_folders import NO_CLASS, SPLITS, check_not_parts

_Folder = tuple[str, ...]
"""Its path, in names."""
_Tops = dict[str, _Folder]
"""By path of the archive."""
_Folders = dict[str, set[_Folder]]
"""By path of the archive."""


def by_folder(
    images: Sequence[Item], folders: Mapping[str, set[str]], like_images: Mapping[str, set[str]]
) -> Source:
    """Label images by their folders; of splits only train is taken.

    Args:
        folders: by path of the archive, those in it (see `Archive`).
        like_images: in the same way, those of images, be they readable or not.
    """
    tree = _Tree(images, folders, like_images)
    classes = [tree.class_of(image) for image in images]
    known = list(zip(images, classes, strict=True))
    skipped = [(image.name, NO_CLASS) for image in images if tree.is_above(image)]
    notes = list(map(shown, tree.notes))
    if not any(classes):
        items = [image for image, name in known if name is not None]
        kind = "tar files without labels"
        return Source(kind=kind, items=items, skipped=skipped, notes=notes)
    names = sorted(tree.names())
    number_of = {name: number for number, name in enumerate(names)}
    source = Source(
        kind="tar files with class folders",
        items=[image for image, name in known if name],
        labels=[number_of[name] for name in classes if name],
        class_names=names,
        skipped=skipped + [(image.name, NO_CLASS) for image, name in known if name == ""],
        notes=notes,
    )
    check_not_parts(source, ", ".join(folders))
    return source


class _Tree:
    """The folders of all archives, and which of them is the top one."""

    def __init__(
        self,
        images: Sequence[Item],
        folders: Mapping[str, set[str]],
        like_images: Mapping[str, set[str]],
    ) -> None:
        self.notes: list[str] = []
        self._folders = {path: set(map(_parts, names)) for path, names in folders.items()}
        self._used: _Folders = {path: set() for path in folders}
        for path, folder in {(image.path, posixpath.dirname(image.member)) for image in images}:
            self._used[path].add(_parts(folder))
        liked = {path: set(map(_parts, names)) for path, names in like_images.items()}
        own = {path: _around(folders) for path, folders in liked.items()}
        self._tops: _Tops = dict.fromkeys(folders, _around(own.values()))
        if not self._is_train_a_split() and _are_parts(own, liked):
            self._tops = own
            self.notes.append(
                f"{len(own)} tar files, each with all images in a folder of its own, are parts of "
                "one data set: the classes are in these folders"
            )
        while self._is_train_a_split():
            self.notes.append(f"took train/ only, of {', '.join(sorted(self._in_use()))}")
            self._tops = {path: (*top, "train") for path, top in self._tops.items()}
        if "train" in self.names():
            other = min(self._in_use() - {"train"})
            self.notes.append(f"took train/ for a class, as there are images in {other}/, too")

    def names(self) -> set[str]:
        """Of all class folders."""
        return _below(self._tops, self._folders)

    def class_of(self, image: Item) -> str | None:
        """The name of its class folder; empty in the top one, None where that is not around it."""
        top, folder = self._places(image)
        if folder[: len(top)] != top:
            return None
        return folder[len(top)] if len(folder) > len(top) else ""

    def is_above(self, image: Item) -> bool:
        """Whether it lies beside folders of splits."""
        top, folder = self._places(image)
        return len(folder) < len(top) and folder == top[: len(folder)]

    def _places(self, image: Item) -> tuple[_Folder, _Folder]:
        return self._tops[image.path], _parts(posixpath.dirname(image.member))

    def _in_use(self) -> set[str]:
        """Names of the folders in the top one that hold images."""
        return _below(self._tops, self._used)

    def _is_train_a_split(self) -> bool:
        others = self._in_use() - {"train"}
        return "train" in self.names() and (not others or not SPLITS.isdisjoint(others))


def _parts(folder: str) -> _Folder:
    return tuple(part for part in folder.split("/") if part not in ("", "."))


def _around(folders: Collection[_Folder]) -> _Folder:
    """The innermost folder around all of them."""
    first, last = min(folders, default=()), max(folders, default=())
    same = takewhile(lambda pair: pair[0] == pair[1], zip(first, last, strict=False))
    return tuple(name for name, _ in same)


def _below(tops: _Tops, folders: _Folders) -> set[str]:
    """Names of the folders directly in the top ones."""
    return {
        folder[len(top)]
        for path, top in tops.items()
        for folder in folders[path]
        if len(folder) > len(top) and folder[: len(top)] == top
    }


def _are_parts(own: _Tops, folders: _Folders) -> bool:
    """Whether rule 2 holds."""
    ordered = sorted(own.values())
    if len(own) < 2 or any(b[: len(a)] == a for a, b in pairwise(ordered)):
        return False
    classes = [_below({path: top}, folders) for path, top in own.items()]
    in_archives = Counter(name for names in classes for name in names)
    return all(any(in_archives[name] > 1 for name in names) for names in classes)
