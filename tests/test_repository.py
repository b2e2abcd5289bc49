"""Guards of the repository: import directions, and documents that agree with the code."""

from __future__ import annotations

import ast
import functools
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterable, Mapping
from graphlib import TopologicalSorter
from pathlib import Path

import pytest
import tree

from benchmarks import report
from fastimae.evaluate.command import TASKS

ROOT = Path(__file__).resolve().parent.parent
PARTS = ("fastimae", "kernels", "loaders")
FOLDERS = (*PARTS, "benchmarks", "tests")

# Which part of fastimae may import which others. "" is fastimae/__init__.py, "doctor" a file of
# its own, "models" a package. Everyone may read the version from the package itself, declare
# settings, export names lazily, word errors, and log.
MAY_IMPORT = {
    "": {
        *("checkout", "foreign_models", "interop", "kernels", "loaders", "models", "objectives"),
    },
    "checkout": set(),
    "cli": {
        *("arguments", "bench", "build", "config", "doctor", "engine", "evaluate", "interop"),
        "loaders",
    },
    "arguments": {
        *("config", "config_file", "declarations", "engine", "flags", "folders", "help"),
        *("loaders", "mistakes", "paths", "progress", "recipes", "streams"),
    },
    "mistakes": {"config", "declarations", "flags", "other_names", "values"},
    "help": {"declarations", "flags"},
    "declarations": set(),
    "values": set(),
    "other_names": set(),
    "flags": {"paths"},
    "build": {
        *("config", "evaluate", "models", "objectives", "kernels", "loaders", "engine", "interop"),
        *("pictures", "trained"),
    },
    "recipes": set(),
    "config": {
        *("engine", "loaders", "models", "objectives", "other_names", "pictures", "recipes"),
        "values",
    },
    "config_file": {"engine", "flags", "paths"},
    "doctor": {"cpus", "machine"},
    "lazy": set(),
    "log": set(),
    "machine": set(),
    "progress": set(),
    "streams": set(),
    "cpus": set(),
    "paths": set(),
    "settings": set(),
    "wording": set(),
    "folders": set(),
    "best_effort": set(),
    "locks": {"folders"},
    "user_code": set(),
    "demo": {
        *("bench", "config", "engine", "flags", "folders", "loaders", "locks", "recipes"),
        "streams",
    },
    "models": {"kernels"},
    "objectives": {"models", "kernels", "pictures", "user_code"},
    "engine": {"best_effort", "folders", "kernels", "locks", "machine", "progress"},
    "bench": {
        *("arguments", "build", "config", "cpus", "engine", "flags", "loaders", "models"),
        "objectives",
    },
    "evaluate": {
        *("arguments", "best_effort", "config", "config_file", "cpus", "declarations", "engine"),
        *("flags", "folders", "help", "interop", "kernels", "loaders", "locks", "models"),
        *("objectives", "paths", "pictures", "progress", "recipes", "trained", "values"),
    },
    "interop": {"engine", "folders", "locks", "models"},
    "foreign_models": {"kernels"},
    "pictures": {"best_effort", "folders", "kernels"},
    "trained": {"engine", "interop", "loaders"},
    "kernels": set(),
    "loaders": {"cpus", "folders", "kernels", "locks", "progress", "user_code"},
}
# Which wings of loaders/ may import which others; all may import the files beside them: errors,
# settings, the protocol. The .beton reader names the kind of a wrong file with what_is.py, which in
# turn recognises a .beton by its header, with layout.py.
WINGS_MAY_IMPORT = {
    "order": set(),
    "images": {"order"},
    "sources": {"beton", "images", "order"},
    "beton": {"images", "order", "sources"},
    "workers": {"images"},
    "device": {"beton", "images", "order", "workers"},
    "convert": {"beton", "images", "order", "sources", "workers"},
    "backends": {"beton", "device", "images", "order", "sources", "workers"},
}
# Types of a batch may be named in annotations, at no cost at run time.
MAY_NAME_TYPES_OF = {
    "engine": {"loaders", "objectives"},
    "objectives": {"loaders"},
    "pictures": {"loaders", "objectives"},
}
MAY_IMPORT_FROM_OUTSIDE = {
    "kernels": {"torch", "triton"},
    "loaders": {"torch", "numpy", "PIL"},
}


def project_files(*folders: str, suffix: str = ".py") -> list[Path]:
    """Return the files of the given top-level folders."""
    return sorted(path for folder in folders for path in (ROOT / folder).rglob(f"*{suffix}"))


def project() -> dict:
    """Return the table [project] of pyproject.toml."""
    return tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def tracked() -> list[Path]:
    """Return what git tracks, and what it would if everything were added."""
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip("not a git checkout")
    paths = [ROOT / name for name in done.stdout.split("\0") if name]
    return [path for path in paths if path.is_file()]


def part_of(path: Path) -> str:
    """Return the part a file belongs to: "models" for fastimae/models/vit.py, "" for the package
    file."""
    first, *rest = path.relative_to(ROOT).with_suffix("").parts
    if first != "fastimae":
        return first
    return "" if rest[0] == "__init__" else rest[0]


def imports(tree: ast.AST) -> list[tuple[str, str]]:
    """Yield (module, where) of each import; where is "top", "function" or "types"."""
    found = []

    def visit(node: ast.AST, where: str) -> None:
        if isinstance(node, ast.If) and "TYPE_CHECKING" in names_in(node.test):
            where = "types"
        elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            where = "function"
        elif isinstance(node, ast.Import):
            found.extend((alias.name, where) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = "." * node.level + (node.module or "")
            found.extend((f"{base}.{alias.name}", where) for alias in node.names)
        for child in ast.iter_child_nodes(node):
            if not isinstance(child, ast.expr):
                visit(child, where)

    visit(tree, "top")
    return found


def names_in(test: ast.expr) -> set[str]:
    """Return all names in an expression, attributes included."""
    nodes = list(ast.walk(test))
    names = {node.id for node in nodes if isinstance(node, ast.Name)}
    return names | {node.attr for node in nodes if isinstance(node, ast.Attribute)}


@functools.cache
def imports_of(path: Path) -> list[tuple[str, str]]:
    """Return the imports of a file, see `imports`; many tests ask for those of the same files."""
    return imports(ast.parse(path.read_text()))


def wrong_imports(part: str, found: Iterable[tuple[str, str]]) -> list[str]:
    """Return those of a file's imports that the import directions forbid to `part`."""
    return [module for module, where in found if is_forbidden(part, module, where)]


def is_forbidden(part: str, module: str, where: str) -> bool:
    """Return whether a file of `part` must not import `module` at `where`."""
    first, *rest = module.split(".")
    if first == "fastimae":
        allowed = {part, "__version__", "lazy", "log", "settings", "wording"} | MAY_IMPORT[part]
        if where == "types":
            allowed |= MAY_NAME_TYPES_OF.get(part, set())
        return "".join(rest[:1]) not in allowed
    if first in ("", "kernels", "loaders", "benchmarks", "tests"):  # "": relative
        return True
    if part not in MAY_IMPORT_FROM_OUTSIDE or (part == "loaders" and where != "top"):
        return False
    return first not in sys.stdlib_module_names | MAY_IMPORT_FROM_OUTSIDE[part]


@pytest.mark.parametrize(
    "path", project_files(*PARTS), ids=lambda path: str(path.relative_to(ROOT))
)
def test_imports_go_in_the_allowed_direction(path):
    assert part_of(path) in MAY_IMPORT, "a new part: give it a row in MAY_IMPORT"
    assert wrong_imports(part_of(path), imports_of(path)) == []


def test_one_file_decides_between_bars_and_lines():
    users = [
        path for path in project_files(*PARTS)
        if any(module.startswith("tqdm") for module, _ in imports_of(path))
    ]  # fmt: skip
    assert users == [ROOT / "fastimae" / "progress.py"]


@pytest.mark.parametrize(
    ("part", "source"),
    [
        ("engine", "from fastimae.models import create_model"),
        ("engine", "from fastimae import objectives"),
        ("engine", "import fastimae.loaders.base"),
        ("kernels", "import numpy"),
        ("kernels", "def f():\n    import scipy"),
        ("loaders", "from fastimae.models import create_model"),
        ("loaders", "import torchvision"),
        ("models", "from . import vit"),
        ("objectives", "from fastimae.loaders import Batch"),
        ("cli", "import benchmarks.harness"),
        ("cli", "from loaders import base"),
        ("cli", "import kernels"),
    ],
)
def test_the_guard_sees_a_forbidden_import(part, source):
    assert len(wrong_imports(part, imports(ast.parse(source)))) == 1


@pytest.mark.parametrize(
    ("part", "source"),
    [
        ("loaders", "def f():\n    import torchvision"),
        ("engine", "if TYPE_CHECKING:\n    from fastimae.loaders.base import Batch"),
        ("engine", "from fastimae.engine.optim import adamw"),
        ("engine", "from fastimae import __version__"),
        ("models", "import math\nfrom fastimae.kernels import attention"),
        ("kernels", "import torch.nn.functional as F"),
    ],
)
def test_the_guard_allows_the_allowed(part, source):
    assert wrong_imports(part, imports(ast.parse(source))) == []


@pytest.mark.parametrize("wing", WINGS_MAY_IMPORT)
def test_wings_of_loaders_import_in_the_allowed_direction(wing):
    for path in project_files(f"loaders/{wing}"):
        found = [module.split(".")[2] for module, where in imports_of(path)
                 if module.startswith("fastimae.loaders.") and where != "types"]  # fmt: skip
        forbidden = WINGS_MAY_IMPORT.keys() - WINGS_MAY_IMPORT[wing] - {wing}
        assert forbidden.isdisjoint(found), path


def test_no_back_end_imports_another():
    """`dali.py` and `dali_pipeline.py` are one back end."""
    for path in project_files("loaders/backends"):
        back_end = path.stem.partition("_")[0]
        for module, where in imports_of(path):
            if module.startswith("fastimae.loaders.backends.") and where != "types":
                other = module.split(".")[3].partition("_")[0]
                assert other == back_end, f"{path.name} imports {module}"


def test_no_task_imports_another():
    """What tasks share is beside tasks/; each is the file of its name, for `fastimae-eval NAME`."""
    tasks = {path.stem: path for path in project_files("fastimae/evaluate/tasks")}
    assert tasks.keys() == TASKS.keys() | {"__init__"}
    for name in TASKS:
        for module, _ in imports_of(tasks[name]):
            assert not module.startswith("fastimae.evaluate.tasks"), f"{name} imports {module}"


def test_no_imports_go_in_a_circle():
    """Between modules, imports inside functions included; annotations may name anything."""
    files = {module_name(path): path for path in project_files(*PARTS)}
    graph = {name: modules_named(path, files) for name, path in files.items()}
    assert list(TopologicalSorter(graph).static_order())


def module_name(path: Path) -> str:
    """Return fastimae.loaders.base for loaders/base.py."""
    parts = path.relative_to(ROOT).with_suffix("").parts
    parts = parts if parts[0] == "fastimae" else ("fastimae", *parts)
    return ".".join(parts).removesuffix(".__init__")


def modules_named(path: Path, known: Mapping[str, Path]) -> set[str]:
    """Return the modules of the product that a file imports at run time."""
    found = [name for name, where in imports_of(path) if where != "types"]
    homes = [name if name in known else name.rpartition(".")[0] for name in found]
    return {home for home in homes if home in known} - {module_name(path)}


@pytest.mark.parametrize("name", ["kernels", "loaders"])
def test_tests_and_benchmarks_do_not_use_the_bare_spelling(name):
    """A bare `import kernels` would pick up the PyPI package of that name."""
    for path in project_files("tests", "benchmarks"):
        first = {module.split(".")[0] for module, _ in imports_of(path)}
        assert name not in first, path


def test_no_link_is_tracked():
    """A zip of the repository has text files in their place."""
    assert [path for path in tracked() if path.is_symlink()] == []


def test_benchmarks_do_not_import_tests():
    for path in project_files("benchmarks"):
        assert "tests" not in {module.split(".")[0] for module, _ in imports_of(path)}, path


def test_the_tree_page_is_made_of_the_files():
    assert (ROOT / "docs/tree.md").read_text() == tree.page(), "make tree writes it"


def test_every_file_says_what_it_is_for():
    files = [file for top in tree.SOURCES for folder in tree.folders_of(ROOT / top)
             for file in tree.files_of(folder)]  # fmt: skip
    assert [path for path in files if not tree.role(path).endswith(".")] == []


def test_tables_of_the_pages_are_the_committed_results():
    assert report.main(["--check"]) == 0, "python -m benchmarks.report writes them"


def test_console_scripts_lead_to_functions():
    for target in project()["scripts"].values():
        module, function = target.split(":")
        tree = ast.parse((ROOT / f"{module.replace('.', '/')}.py").read_text())
        assert function in {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}


def test_the_version_is_written_once():
    text = (ROOT / "fastimae/__init__.py").read_text()
    number = re.search(r'__version__ = "([\d.]+)"', text).group(1)
    literal = re.compile(rf"[\"']v?{re.escape(number)}[\"']")
    files = [*project_files(*FOLDERS), ROOT / "setup.py", ROOT / "pyproject.toml"]
    assert [path.name for path in files if literal.search(path.read_text())] == ["__init__.py"]
    assert f"## {number}" in (ROOT / "CHANGELOG.md").read_text()


def test_no_large_file_is_tracked():
    assert [path.name for path in tracked() if path.stat().st_size > 1_000_000] == []


def test_no_path_of_one_machine_is_tracked():
    homes = [f"/{name}/".encode() for name in ("root", "work", "home", "tmp")]
    found = [
        f"{path.relative_to(ROOT)}: {home.decode()}"
        for path in tracked()
        for home in homes
        if re.search(rb"(?<![\w.}])" + home, path.read_bytes())
    ]
    assert found == []


def test_make_alone_prints_every_target():
    text = (ROOT / "Makefile").read_text()
    targets = re.search(r"^\.PHONY: (.*)$", text, re.MULTILINE).group(1).split()
    shown = subprocess.run(
        ["make", "--no-print-directory"], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout
    assert re.findall(r"^  make (\w+) +\S", shown, re.MULTILINE) == targets


def test_files_are_written_whole_or_not_at_all():
    """By `fastimae.folders.replacing`: readers get the old content or the new."""
    straight = re.compile(r"(?<!\bpartial)\.(write_text|write_bytes|savefig)\((?!partial)")
    found = [path for path in project_files(*PARTS) if straight.search(path.read_text())]
    assert found == []


def test_every_package_has_an_init():
    """Without it, a folder works in a checkout but is missing from the wheel."""
    folders = {path.parent for path in project_files(*PARTS)}
    assert [str(folder) for folder in folders if not (folder / "__init__.py").exists()] == []


def test_no_two_tests_share_a_file_name():
    names = [path.name for path in project_files("tests") if path.name.startswith("test_")]
    assert len(names) == len(set(names))
