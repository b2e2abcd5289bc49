"""The files that a tar archive holds: hard links followed, archives within looked into."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from typing import NamedTuple

from fastimae.loaders.tar_headers import FOLDER, HARD_LINK, Member, TarDamage, read_members

PACKED_SUFFIXES = (".tgz", ".tar.gz", ".tbz2", ".tar.bz2", ".txz", ".tar.xz", ".tar.zst")
_DEEPEST = 3
"""Tar files in tar files in tar files. ImageNet's are one deep."""


class TarFile(NamedTuple):
    """A file in an archive, or something else there that cannot be used."""

    name: str
    """With the names of the archives around it as folders; empty: the archive itself."""
    offset: int = 0
    size: int = 0
    problem: str = ""
    """Why it cannot be used."""

    @property
    def is_archive(self) -> bool:
        """Whether it may hold many images."""
        return not self.name or self.name.endswith((".tar", *PACKED_SUFFIXES))


def tar_files(fd: int, start: int, end: int, name: str = "", depth: int = 0) -> Iterator[TarFile]:
    """Yield all that the archive `name`, in these bytes of a file, holds, in its order.

    An archive within is a folder: one with FOLDER for its problem, and what is in it.
    A damaged archive is read as far as it goes, and is then itself yielded with its problem.
    Raises OSError.
    """
    folder = f"{name.removesuffix('.tar')}/" if name else ""
    try:
        for member in _followed(fd, start, end):
            file = TarFile(folder + member.name, member.offset, member.size, member.kind)
            if file.problem or not file.is_archive:
                yield file
            elif not file.name.endswith(".tar"):
                yield file._replace(problem="compressed within a tar file: unpack it first")
            elif depth == _DEEPEST:
                yield file._replace(problem="too deep in other tar files: unpack it first")
            else:
                yield TarFile(file.name.removesuffix(".tar"), problem=FOLDER)
                yield from tar_files(fd, file.offset, file.offset + file.size, file.name, depth + 1)
    except TarDamage as damage:
        yield TarFile(name, problem=f"what follows in this tar file is lost: {damage}")


def _followed(fd: int, start: int, end: int) -> Iterator[Member]:
    """The members, with hard links as the files they lead to, as after unpacking."""
    files: dict[str, Member] | None = None  # takes memory, and few archives need it
    for number, member in enumerate(read_members(fd, start, end)):
        if member.kind == HARD_LINK:
            if files is None:
                earlier = islice(read_members(fd, start, end), number)
                files = {file.name: file for file in earlier if not file.kind}
            member = _follow(member, files)
        if files is not None and not member.kind:
            files[member.name] = member
        yield member


def _follow(link: Member, files: dict[str, Member]) -> Member:
    file = files.get(link.target)
    if file is None:
        return link._replace(kind=f"{HARD_LINK} to nothing before it")
    if file.name.endswith(".tar"):  # thousands of links would be thousands of archives
        return link._replace(kind=f"{HARD_LINK} to a tar file")
    return file._replace(name=link.name)
