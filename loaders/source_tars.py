"""Images in tar files: archives of class folders, and WebDataset shards."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

from tqdm import tqdm

from fastimae.loaders.items import Item, Source, counts, shown, unreadable
from fastimae.loaders.source_published import cifar_source
from fastimae.loaders.tar_archive import Archive, read_archive
from fastimae.loaders.tar_classes import by_folder
from fastimae.loaders.tar_samples import name_of
from fastimae.loaders.unpack import unpacked

_NO_CLASSES = (
    "several tar files without class folders or labels: each is taken for a part of one set; to "
    "have a class for each, give the archive that holds them, or unpack each into its own folder"
)


def tar_source(paths: list[Path], scratch: Path | None) -> Source:
    """The images of one or more tar files, read where they lie.

    Labels are WebDataset's `.cls` members if there are any (`tar_samples`), else the folders of the
    images (`tar_classes`). A tar file inside a tar file, as in ImageNet's, counts as a folder. What
    cannot be used, be it the rest of a damaged archive, is in `skipped`.

    Args:
        scratch: a folder to unpack compressed files to, because images are read in random order.
            None: they are an error.

    Raises:
        DataError: compressed files cannot be unpacked for want of scratch or space.
    """
    found = _Found()
    for number, path in enumerate(tqdm(paths, "reading tar directories", disable=len(paths) < 2)):
        found.add(path, scratch and scratch / str(number) / path.name)
    source = cifar_source(found.published) or found.source()
    # A reason may name a file, too.
    source.skipped = [(name, shown(why)) for name, why in source.skipped + found.skipped]
    return source


class _Found:
    """The images of all archives so far."""

    def __init__(self) -> None:
        self.items: list[Item] = []
        self.labels: list[int | None] = []
        """By `.cls` files; None in an archive that has none."""
        self.folders: dict[str, set[str]] = {}
        """By path of the archive, as are those of images."""
        self.image_folders: dict[str, set[str]] = {}
        self.published: dict[str, Item] = {}
        self.skipped: list[tuple[str, str]] = []
        self.has_labels = False
        self.twins = 0
        self.parts: Counter[str] = Counter()
        self.others: Counter[str] = Counter()

    def add(self, path: Path, scratch: Path | None) -> None:
        """List one more archive; `scratch`: where to unpack it."""
        name = shown(str(path))
        try:
            if not path.is_file():  # opening a named pipe would wait for ever
                self.skipped.append((name, "not a file"))
                return
            plain, problem = unpacked(path, scratch)
            self.skipped += [(name, problem)] if problem else []
            if plain is not None:
                self._add(read_archive(plain))
        except OSError as error:
            self.skipped.append((name, unreadable(error)))

    def _add(self, archive: Archive) -> None:
        self.folders[archive.path] = archive.folders
        if archive.image_folders:
            self.image_folders[archive.path] = archive.image_folders
        for image, label in archive.samples():
            self.items.append(image)
            self.labels.append(label)
        self.published |= archive.published
        self.skipped += archive.skipped
        self.has_labels |= bool(archive.labels)
        self.twins += archive.twins
        self.parts += archive.parts
        self.others += archive.others

    def source(self) -> Source:
        """All of them, labelled."""
        source = self._by_number() if self.has_labels else self._by_folder()
        if len(self.image_folders) > 1 and source.labels is None:
            source.notes.append(_NO_CLASSES)
        if self.twins:
            source.notes.append(
                f"taken, though only the extension differs from another image: {self.twins}"
            )
        if self.parts:
            source.notes.append(f"left out as other parts of a sample: {counts(self.parts)}")
        source.others = self.others
        return source

    def _by_folder(self) -> Source:
        return by_folder(self.items, self.folders, self.image_folders)

    def _by_number(self) -> Source:
        source = Source(kind="WebDataset shards with .cls labels", items=[], labels=[])
        for image, label in zip(self.items, self.labels, strict=True):
            if label is None:
                source.skipped.append((image.name, f"no {name_of(image.member)}.cls"))
            else:
                source.items.append(image)
                source.labels.append(label)
        return source
