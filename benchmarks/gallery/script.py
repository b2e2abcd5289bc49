"""docs/gallery.md as a script: its commands, and which picture comes from which command."""

from __future__ import annotations

import re
from pathlib import Path
from typing import NamedTuple

PAGE = Path("docs/gallery.md")
_BLOCK = re.compile(r"```bash\n(.*?)```", re.DOTALL)
_PICTURE = re.compile(r"`([^`\s]+\.(?:png|html))`:\n\n!\[[^\]]*\]\((\S+)\)")
_EITHER = re.compile(f"{_BLOCK.pattern}|{_PICTURE.pattern}", re.DOTALL)


class Picture(NamedTuple):
    """A picture of the page. source: the file that `command` makes; target: its copy in docs/."""

    source: str
    target: str
    command: str


def commands(page: str) -> list[str]:
    """Return the commands of a page's shell blocks, each in one line, in order."""
    return [line for block in _BLOCK.findall(page) for line in _lines(block)]


def pictures(page: str) -> list[Picture]:
    """Return the pictures of a page, each with the last command above it that made its folder."""
    found, before = [], []
    for block, source, target in _EITHER.findall(page):
        before += _lines(block)
        if source:
            found.append(Picture(source, target, _maker(source, before)))
    return found


def command_of(page: str, source: str) -> str:
    """Return the command of a page that makes a file."""
    return _maker(source, commands(page))


def _maker(source: str, before: list[str]) -> str:
    """Return the last command that fits a file: by its task, or by the folder of its output."""
    task = re.search(r"eval-(\w+)/|/(report)\.html$", source)
    folder = f"--output_dir {Path(source).parent}"
    wanted = f"fastimae-eval {task[1] or task[2]} " if task else folder
    return [command for command in before if wanted in command][-1]


def _lines(block: str) -> list[str]:
    lines = block.replace("\\\n", " ").splitlines()
    return [" ".join(line.split()) for line in lines if line.strip()]
