"""Guards of the repository itself: import direction, and documents that agree with the code."""

from __future__ import annotations

import ast
import importlib
import re
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks import report
from fastimae.arguments import parse, parse_training
from fastimae.bench.options import BenchOptions
from fastimae.cli import ConvertArguments
from fastimae.evaluate.command import TASKS
from fastimae.interop.command import ExportOptions, ImportOptions

ROOT = Path(__file__).resolve().parent.parent
PARTS = ("fastimae", "kernels", "loaders")
FOLDERS = (*PARTS, "benchmarks", "tests")

# Which part of fastimae may import which others. "" is fastimae/__init__.py, "doctor" a file of
# its own, "models" a package. Everyone may read the version from the package itself, declare
# settings, word errors, and log.
MAY_IMPORT = {
    "": {"models", "objectives", "kernels", "loaders", "interop"},
    "cli": {
        *("arguments", "bench", "build", "config", "doctor", "engine", "evaluate", "interop"),
        "loaders",
    },
    "arguments": {"config", "flags", "folders", "recipes", "engine", "loaders"},
    "flags": set(),
    "build": {
        *("config", "models", "objectives", "kernels", "loaders", "engine", "evaluate", "interop"),
    },
    "recipes": set(),
    "config": {"engine", "flags", "loaders", "models", "objectives", "recipes"},
    "doctor": {"machine"},
    "log": set(),
    "machine": set(),
    "settings": set(),
    "wording": set(),
    "folders": set(),
    "locks": {"folders"},
    "own_code": set(),
    "demo": {"engine", "flags", "folders", "locks"},
    "models": {"kernels"},
    "objectives": {"models", "kernels", "own_code"},
    "engine": {"folders", "locks"},
    "bench": {
        *("arguments", "build", "config", "engine", "flags", "loaders", "machine", "models"),
        "objectives",
    },
    "evaluate": {
        *("arguments", "config", "engine", "flags", "folders", "interop", "kernels", "loaders"),
        *("locks", "models", "objectives"),
    },
    "interop": {"arguments", "engine", "folders", "kernels", "locks", "models"},
    "kernels": set(),
    "loaders": {"folders", "locks", "machine", "own_code"},
}
# Types of a batch may be named in annotations, at no cost at run time.
MAY_NAME_TYPES_OF = {"engine": {"loaders", "objectives"}, "objectives": {"loaders"}}
MAY_IMPORT_FROM_OUTSIDE = {
    "kernels": {"torch", "triton"},
    "loaders": {"torch", "numpy", "PIL", "tqdm"},
}


def project_files(*folders: str, suffix: str = ".py") -> list[Path]:
    """Files of the given top-level folders, reached by their real path."""
    found = [path for folder in folders for path in (ROOT / folder).rglob(f"*{suffix}")]
    return sorted(path for path in found if not linked(path))


def linked(path: Path) -> bool:
    """Whether a path leads through fastimae/kernels or fastimae/loaders, which are links."""
    return path.resolve() != path


def tracked() -> list[Path]:
    """What git tracks, and what it would if everything were added."""
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip("not a git checkout")
    paths = [ROOT / name for name in done.stdout.split("\0") if name]
    return [path for path in paths if path.is_file() and not path.is_symlink()]


def part_of(path: Path) -> str:
    """The part a file belongs to: "models" for fastimae/models/vit.py, "" for the package file."""
    first, *rest = path.relative_to(ROOT).with_suffix("").parts
    if first != "fastimae":
        return first
    return "" if rest[0] == "__init__" else rest[0]


def imports(tree: ast.AST) -> list[tuple[str, str]]:
    """(module, where) of each import; where is "top", "function" or "types"."""
    found = []

    def visit(node: ast.AST, where: str) -> None:
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            where = "types"
        elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            where = "function"
        elif isinstance(node, ast.Import):
            found.extend((alias.name, where) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = "." * node.level + (node.module or "")
            found.extend((f"{base}.{alias.name}", where) for alias in node.names)
        for child in ast.iter_child_nodes(node):
            visit(child, where)

    visit(tree, "top")
    return found


def wrong_imports(part: str, source: str) -> list[str]:
    """The imports of a file of `part` that the direction of imports forbids."""
    found = imports(ast.parse(source))
    return [module for module, where in found if is_forbidden(part, module, where)]


def is_forbidden(part: str, module: str, where: str) -> bool:
    """Whether a file of `part` must not import `module` at `where`."""
    first, *rest = module.split(".")
    if first == "fastimae":
        allowed = {part, "__version__", "log", "settings", "wording"} | MAY_IMPORT[part]
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
    assert wrong_imports(part_of(path), path.read_text()) == []


@pytest.mark.parametrize(
    ("part", "source"),
    [
        ("engine", "from fastimae.models import create_model"),
        ("engine", "from fastimae import objectives"),
        ("engine", "import fastimae.loaders.base"),
        ("kernels", "import numpy"),
        ("kernels", "def f():\n    import scipy"),
        ("loaders", "from fastimae.kernels import random_masking"),
        ("loaders", "import torchvision"),
        ("models", "from . import vit"),
        ("objectives", "from fastimae.loaders import Batch"),
        ("cli", "import benchmarks.harness"),
        ("cli", "from loaders import base"),
        ("cli", "import kernels"),
    ],
)
def test_the_guard_sees_a_forbidden_import(part, source):
    assert len(wrong_imports(part, source)) == 1


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
    assert wrong_imports(part, source) == []


@pytest.mark.parametrize("name", ["kernels", "loaders"])
def test_tests_and_benchmarks_do_not_use_the_bare_spelling(name):
    """A bare `import kernels` would pick up the PyPI package of that name."""
    for path in project_files("tests", "benchmarks"):
        first = {module.split(".")[0] for module, _ in imports(ast.parse(path.read_text()))}
        assert name not in first, path
    link = ROOT / "fastimae" / name
    assert link.is_symlink() and link.resolve() == ROOT / name


def tree_of(page: str) -> set[str]:
    """Paths named in a page's tree: the fenced block whose first line is `fastimae/`."""
    text = (ROOT / page).read_text()
    block = re.search(r"```\n(fastimae/.*?)```", text, re.DOTALL).group(1)
    named, stack = set(), []
    for line in block.splitlines():
        entry = re.match(r"( *)(\S+)", line)
        depth = len(entry[1]) // 2
        stack[depth:] = [entry[2].rstrip("/")]
        named.add("/".join(stack))
    return named


def test_the_tree_page_is_the_real_tree():
    """Every folder and module has its line, and every line its file."""
    named = tree_of("docs/tree.md")
    modules = [path for path in project_files(*FOLDERS[:-1]) if not path.name.startswith("__")]
    packages = {path.parent for path in project_files(*FOLDERS[:-1])}
    real = {str(path.relative_to(ROOT)) for path in (*modules, *packages)}
    assert real - named == set(), "missing in docs/tree.md"
    assert {path for path in named if not (ROOT / path).exists()} == set(), "only in docs/tree.md"


def test_readmes_tree_names_every_package():
    named = tree_of("README.md")
    packages = {path.parent.relative_to(ROOT) for path in project_files(*PARTS)}
    assert {str(path) for path in packages if len(path.parts) <= 2} - named == set()
    assert {path for path in named if not (ROOT / path).exists()} == set()


def test_tables_of_the_readme_are_the_committed_results():
    assert report.main(["--check"]) == 0, "python -m benchmarks.report writes them"


def test_readme_names_the_console_scripts_of_setup_py():
    scripts = set(re.findall(r'"(fastimae-\w+) = ', (ROOT / "setup.py").read_text()))
    named = set(re.findall(r"\bfastimae-[a-z]+\b", (ROOT / "README.md").read_text()))
    assert scripts == named


def readme_commands(program: str) -> list[list[str]]:
    """The arguments of each call of a console script in the README, in blocks and in tables."""
    text = (ROOT / "README.md").read_text().replace("\\\n", " ")
    calls = re.findall(rf"{program} ((?:[^`\n#])+)", text)
    return [call.split() for call in calls]


@pytest.mark.parametrize("arguments", readme_commands("fastimae-train"), ids=" ".join)
def test_training_commands_of_the_readme_are_understood(arguments, capsys):
    assert parse_training("fastimae-train", [*arguments, "--print_config"]) is None
    assert "batch_size:" in capsys.readouterr().out


@pytest.mark.parametrize("arguments", readme_commands("fastimae-convert"), ids=" ".join)
def test_converting_commands_of_the_readme_are_understood(arguments):
    options = parse("fastimae-convert", ConvertArguments, arguments)
    assert options.verify or options.out.suffix == ".beton"


@pytest.mark.parametrize("arguments", readme_commands("fastimae-eval"), ids=" ".join)
def test_evaluating_commands_of_the_readme_are_understood(arguments):
    for library in ("timm", "sklearn", "torchmetrics", "piq"):
        pytest.importorskip(library)
    task, *rest = arguments
    if task != "TASK":
        options = getattr(importlib.import_module(TASKS[task].module), TASKS[task].options)
        parse("fastimae-eval", options, rest)


@pytest.mark.parametrize(
    ("program", "options"),
    [
        ("fastimae-export", ExportOptions),
        ("fastimae-import", ImportOptions),
        ("fastimae-bench", BenchOptions),
    ],
)
def test_other_commands_of_the_readme_are_understood(program, options):
    calls = readme_commands(program)
    assert calls and all(parse(program, options, arguments) for arguments in calls)


def test_console_scripts_lead_to_functions():
    targets = re.findall(r'"fastimae-\w+ = fastimae\.(\w+):(\w+)"', (ROOT / "setup.py").read_text())
    assert targets
    for module, function in targets:
        tree = ast.parse((ROOT / "fastimae" / f"{module}.py").read_text())
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


def links(page: Path) -> list[str]:
    """Relative targets of a page's links and pictures."""
    targets = re.findall(r"\]\(([^)#\s]+)[^)]*\)", page.read_text())
    return [target for target in targets if "://" not in target and "mailto:" not in target]


@pytest.mark.parametrize("page", ["README.md", "CONTRIBUTING.md", "CHANGELOG.md"])
def test_links_of_the_documents_resolve(page):
    assert [link for link in links(ROOT / page) if not (ROOT / link).exists()] == []


def test_make_alone_prints_every_target():
    text = (ROOT / "Makefile").read_text()
    targets = re.search(r"^\.PHONY: (.*)$", text, re.MULTILINE).group(1).split()
    shown = subprocess.run(
        ["make", "--no-print-directory"], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout
    assert re.findall(r"^  make (\w+) +\S", shown, re.MULTILINE) == targets


def test_files_are_written_whole_or_not_at_all():
    """By `fastimae.folders.replacing`: whoever reads them finds the old content or the new."""
    straight = re.compile(r"(?<!\bpartial)\.(write_text|write_bytes|savefig)\((?!partial)")
    found = [path for path in project_files(*PARTS) if straight.search(path.read_text())]
    assert found == []


def test_every_package_has_an_init():
    """Without one, a folder works in a checkout and is missing from the wheel."""
    folders = {path.parent for path in project_files(*PARTS)}
    assert [str(folder) for folder in folders if not (folder / "__init__.py").exists()] == []


def test_no_two_tests_share_a_file_name():
    names = [path.name for path in project_files("tests") if path.name.startswith("test_")]
    assert len(names) == len(set(names))
