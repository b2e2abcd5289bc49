"""The files in a tar archive, with hard links followed and nested archives opened."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from typing import NamedTuple

from fastimae.loaders.sources.tar_headers import FOLDER, HARD_LINK, Member, TarDamage, read_members

PACKED_SUFFIXES = (".tgz", ".tar.gz", ".tbz2", ".tar.bz2", ".txz", ".tar.xz", ".tar.zst")
_DEEPEST = 3
"""How deep tar files may be nested. ImageNet's are nested once."""


class TarFile(NamedTuple):
    """A file in an archive, or a member that cannot be used."""

    name: str
    """Its path, in which nested archives count as folders; empty for the archive itself."""
    offset: int = 0
    size: int = 0
    problem: str = ""
    """Why it cannot be used; empty if it can."""

    @property
    def is_archive(self) -> bool:
        """Whether it may hold many images, so that losing it should be reported."""
        return not self.name or self.name.endswith((".tar", *PACKED_SUFFIXES))


def tar_files(fd: int, start: int, end: int, name: str = "", depth: int = 0) -> Iterator[TarFile]:
    """Yield everything in the archive `name`, at bytes `start` to `end` of a file, in its order.

    A nested archive counts as a folder: it is yielded with FOLDER as its problem, then its content.
    A damaged archive is read as far as possible, then yielded itself with its problem.
    Raises OSError.
    """
    folder = f"{name.removesuffix('.tar')}/" if name else ""
    try:
        for member in _followed(fd, start, end):
            file = TarFile(folder + member.name, member.offset, member.size, member.kind)
            if file.problem or not file.is_archive:
                yield file
            elif not file.name.endswith(".tar"):
                yield file._replace(problem="compressed inside a tar file: unpack it first")
            elif depth == _DEEPEST:
                yield file._replace(problem="nested too deep in tar files: unpack it first")
            else:
                yield TarFile(file.name.removesuffix(".tar"), problem=FOLDER)
                yield from tar_files(fd, file.offset, file.offset + file.size, file.name, depth + 1)
    except TarDamage as damage:
        yield TarFile(name, problem=f"the rest of this tar file is lost: {damage}")


def _followed(fd: int, start: int, end: int) -> Iterator[Member]:
    """Yield the members, with hard links replaced by their targets, as after unpacking."""
    files: dict[str, Member] | None = None  # built on demand: it takes memory, few archives need it
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
    if file.name.endswith(".tar"):  # thousands of links would count as thousands of archives
        return link._replace(kind=f"{HARD_LINK} to a tar file")
    return file._replace(name=link.name)
