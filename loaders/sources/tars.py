"""Images in tar files: archives of class folders and WebDataset shards."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

from fastimae.loaders.image_location import ImageLocation, Source, counts, printable, unreadable
from fastimae.loaders.sources.published import cifar_source
from fastimae.loaders.sources.tar_archive import Archive, read_archive
from fastimae.loaders.sources.tar_classes import by_folder
from fastimae.loaders.sources.tar_samples import name_of
from fastimae.loaders.sources.unpack import unpack_if_compressed
from fastimae.progress import tracked

_NO_CLASSES = (
    "several tar files without class folders or labels: they count as parts of one set without "
    "classes; to make each a class, give the archive around them, or unpack each into a folder"
)


def tar_source(paths: list[Path], scratch: Path | None) -> Source:
    """List the images of one or more tar files, which are read in place.

    Labels are WebDataset's `.cls` members if there are any (`tar_samples`), else the folders of the
    images (`tar_classes`). A tar file inside a tar file, as in ImageNet's, counts as a folder. What
    cannot be used, such as the rest of a damaged archive, is in `skipped`.

    Args:
        scratch: a folder to unpack compressed files to, because images are read in random order.
            None: compressed files are an error.

    Raises:
        DataError: compressed files cannot be unpacked for lack of a scratch folder or of space.
    """
    archives = _Archives()
    shown = tracked(paths, "reading tar directories", "tar", quiet=len(paths) < 2)
    for number, path in enumerate(shown):
        archives.add(path, scratch and scratch / str(number) / path.name)
    source = cifar_source(archives.published) or archives.source()
    # A reason may contain a file name, which may not be printable.
    source.skipped = [(name, printable(why)) for name, why in source.skipped + archives.skipped]
    return source


class _Archives:
    """The images of all archives so far."""

    def __init__(self) -> None:
        self.items: list[ImageLocation] = []
        self.labels: list[int | None] = []
        """Label of each image from `.cls` files; None in an archive without any."""
        self.folders: dict[str, set[str]] = {}
        """All folders, by path of the archive."""
        self.image_folders: dict[str, set[str]] = {}
        """Folders with images, by path of the archive."""
        self.published: dict[str, ImageLocation] = {}
        self.skipped: list[tuple[str, str]] = []
        self.has_labels = False
        self.twins = 0
        self.parts: Counter[str] = Counter()
        self.others: Counter[str] = Counter()

    def add(self, path: Path, scratch: Path | None) -> None:
        """List another archive; `scratch`: where to unpack it."""
        name = printable(str(path))
        try:
            if not path.is_file():  # opening a named pipe would block forever
                self.skipped.append((name, "not a file"))
                return
            plain, problem = unpack_if_compressed(path, scratch)
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
        """Combine and label the images of all archives."""
        source = self._by_label_files() if self.has_labels else self._by_folder()
        if len(self.image_folders) > 1 and source.labels is None:
            source.notes.append(_NO_CLASSES)
        if self.twins:
            source.notes.append(
                f"used, though only the extension differs from another image: {self.twins}"
            )
        if self.parts:
            source.notes.append(f"left out as other parts of a sample: {counts(self.parts)}")
        source.others = self.others
        return source

    def _by_folder(self) -> Source:
        return by_folder(self.items, self.folders, self.image_folders)

    def _by_label_files(self) -> Source:
        source = Source(kind="WebDataset shards with .cls labels", items=[], labels=[])
        for image, label in zip(self.items, self.labels, strict=True):
            if label is None:
                source.skipped.append((image.name, f"no {name_of(image.member)}.cls"))
            else:
                source.items.append(image)
                source.labels.append(label)
        return source
