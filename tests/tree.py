"""docs/tree.md: every file of the sources with the first line of its docstring (`make tree`)."""

from __future__ import annotations

import ast
import re
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PAGE = ROOT / "docs/tree.md"
SOURCES = ("fastimae", "kernels", "loaders", "benchmarks")
HEAD = """# The tree, one line per file

`make tree` makes this page from the first lines of the files, so a file's role is stated in the
file itself. Tests mirror these folders, in `tests/`.
"""


def page() -> str:
    """Return the page: a section per folder, a line per file."""
    folders = [folder for name in SOURCES for folder in folders_of(ROOT / name)]
    return "\n".join([HEAD, *map(section, folders)])


def folders_of(top: Path) -> list[Path]:
    """Return `top` and all folders in it that have sources, sorted by name."""
    inner = sorted(path for path in top.iterdir() if path.is_dir() and not path.is_symlink())
    return [top] * bool(files_of(top)) + [one for path in inner for one in folders_of(path)]


def files_of(folder: Path) -> list[Path]:
    """Return the files with a line: modules, and in C++ headers, and sources without one."""
    return sorted(
        path for path in folder.iterdir()
        if (path.suffix == ".py" and path.name != "__init__.py") or path.suffix == ".h"
        or (path.suffix == ".cc" and not path.with_suffix(".h").exists())
    )  # fmt: skip


def section(folder: Path) -> str:
    """Return a folder's heading, its purpose, and its files."""
    name = folder.relative_to(ROOT)
    about = role(folder / "__init__.py") if (folder / "__init__.py").exists() else ""
    lines = [f"- [{path.name}](../{name}/{path.name}): {role(path)}" for path in files_of(folder)]
    return "\n".join([f"## {name}/", "", *([about, ""] if about else []), *lines, ""])


def role(path: Path) -> str:
    """Return the first paragraph of a docstring, or of a C++ file's comment, as one line."""
    text = path.read_text(encoding="utf-8")
    if path.suffix == ".py":
        text = ast.get_docstring(ast.parse(text)) or ""
    else:
        text = re.sub(r"^// ?", "", re.match(r"(?://.*\n)*", text)[0], flags=re.MULTILINE)
    return " ".join(text.split("\n\n")[0].split())


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
