"""README, docs/ and the site: links, anchors, pictures and commands are right, and it builds."""

import importlib.util
import os
import re
import shlex
import subprocess
import sys
import tomllib
from html.parser import HTMLParser
from pathlib import Path

import pytest
from PIL import Image

from benchmarks.gallery import script
from fastimae.arguments import UsageError, parse, parse_training
from fastimae.bench.options import BenchOptions
from fastimae.cli import ConvertArguments
from fastimae.evaluate.command import TASKS
from fastimae.interop.options import ExportOptions, ImportOptions
from fastimae.settings import ConfigError

ROOT = Path(__file__).resolve().parent.parent
DOCS = sorted(path.relative_to(ROOT) for path in (ROOT / "docs").rglob("*.md"))
PAGES = [Path(name) for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md")] + DOCS
WITH_COMMANDS = [Path("README.md"), *DOCS]
PROGRAMS = {
    "fastimae-convert": ConvertArguments,
    "fastimae-bench": BenchOptions,
    "fastimae-export": ExportOptions,
    "fastimae-import": ImportOptions,
}
PROGRAM = re.compile("fastimae-[a-z]+")
FENCED = re.compile(r"^ *```(\w*)\n(.*?)^ *```", re.DOTALL | re.MULTILINE)


def text_of(page):
    return (ROOT / page).read_text()


def links(page):
    """Return the targets of a page's links and pictures that are in the repository."""
    text = FENCED.sub("", text_of(page))
    found = re.findall(r"\]\(([^)\s]+)[^)]*\)|(?:src|srcset)=\"([^\"]+)\"", text)
    targets = [one or other for one, other in found]
    return [target for target in targets if "://" not in target and "mailto:" not in target]


def anchors(page):
    """Return the anchors of a page's headings, as GitHub and the site make them."""
    headings = re.findall(r"^#+ (.+)$", FENCED.sub("", text_of(page)), re.MULTILINE)
    words = [re.sub(r"[^\w\- ]", "", heading.lower()) for heading in headings]
    return {heading.strip().replace(" ", "-") for heading in words}


@pytest.mark.parametrize("page", PAGES, ids=str)
def test_links_lead_to_files_and_headings(page):
    wrong = []
    for link in links(page):
        target, _, anchor = link.partition("#")
        path = (ROOT / page.parent / target) if target else ROOT / page
        if not path.exists() or (anchor and anchor not in anchors(path.resolve())):
            wrong.append(link)
    assert wrong == []


def test_readme_fits_and_names_every_page_and_console_script():
    text = text_of("README.md")
    assert len(text.splitlines()) <= 180
    pages = {str(page) for page in DOCS if len(page.parts) == 2}
    assert pages - set(links(Path("README.md"))) == set()
    scripts = set(tomllib.loads(text_of("pyproject.toml"))["project"]["scripts"])
    assert scripts == set(PROGRAM.findall(text))


def blocks(page, *languages):
    return [body for language, body in FENCED.findall(text_of(page)) if language in languages]


def commands():
    """Return (page, program, arguments) of each call of a console script.

    Calls are lines of shell blocks, and code in tables; other code may leave out arguments.
    """
    found = []
    for page in WITH_COMMANDS:
        lines = "\n".join(blocks(page, "", "bash")).replace("\\\n", " ").splitlines()
        lines += re.findall(r"(?<=\| )`([^`]+)` \|$", text_of(page), re.MULTILINE)
        for line in lines:
            words = shlex.split(line, comments=True)
            start = next((i for i, word in enumerate(words) if PROGRAM.fullmatch(word)), None)
            if start is not None and words[start] != "fastimae-doctor":
                rest = [word for word in words[start + 1 :] if word not in ("&", ";")]
                found.append(pytest.param(words[start], rest, id=f"{page}: {' '.join(words)}"))
    return found


def parsed(program, arguments):
    """Parse a command as its program does, or raise its error."""
    if program == "fastimae-train":
        return parse_training(program, [*arguments, "--print_config"])
    if program != "fastimae-eval":
        return parse(program, PROGRAMS[program], arguments)
    task, *rest = arguments
    if "--" in rest:
        parsed("fastimae-train", rest[rest.index("--") + 1 :])
    return parse(program, TASKS[task].options, rest)


def needs_files(arguments):
    """Return whether a command reads a module of the reader's, or the settings of a run."""
    return any(word.startswith(("my_", "your_", "--config")) for word in arguments)


@pytest.mark.parametrize(("program", "arguments"), commands())
def test_commands_are_understood(program, arguments, capsys, monkeypatch):
    monkeypatch.setenv("DATA", "data")
    if needs_files(arguments):
        pytest.skip("names a file that the reader has")
    options = parsed(program, arguments)
    if program == "fastimae-train":
        assert "batch_size:" in capsys.readouterr().out
    elif program == "fastimae-convert":
        assert options.verify or options.out.suffix == ".beton"


def in_passing():
    """Return (page, program, arguments) of code in sentences that names a program and its flags."""
    found = []
    for page in PAGES:
        for code in re.findall(r"`(fastimae-[^`\n]* -[^`\n]*)`", FENCED.sub("", text_of(page))):
            program, *rest = shlex.split(code)
            if program == "fastimae-eval" and rest[0].startswith("-"):
                rest.insert(0, "knn")  # it stands for all tasks
            found.append(pytest.param(program, rest, id=f"{page}: {code}"))
    return found


@pytest.mark.parametrize(("program", "arguments"), in_passing())
def test_flags_in_sentences_exist(program, arguments):
    """Such code may leave out what a command needs, but may not name what it lacks."""
    try:
        parsed(program, arguments)
    except (UsageError, ConfigError) as error:
        assert not re.search("there is no flag|did you mean", str(error)) or (
            needs_files(arguments)
        )
    except SystemExit as end:  # --help
        assert end.code == 0


def test_all_programs_and_tasks_are_shown():
    calls = [call.values for call in commands()]
    assert {program for program, _ in calls} == {*PROGRAMS, "fastimae-train", "fastimae-eval"}
    tasks = {arguments[0] for program, arguments in calls if program == "fastimae-eval"}
    assert tasks == TASKS.keys()


def test_the_gallery_has_every_picture_of_every_task():
    pictures = script.pictures(text_of(script.PAGE))
    named = {re.sub(r"-\d+(?=\.png)", "", Path(picture.source).name) for picture in pictures}
    drawn = set()
    for path in (ROOT / "fastimae").rglob("*.py"):
        drawn |= set(re.findall(r'"(\w+)(?:-\{[^"]*\})?\.png"', path.read_text()))
    needs_imagenet = {"shapebias"}
    assert {Path(name).stem for name in named if name.endswith(".png")} == drawn - needs_imagenet


def test_pictures_of_the_gallery_are_made_by_its_commands():
    page = text_of(script.PAGE)
    for picture in script.pictures(page):
        made = Image.open(ROOT / "docs" / picture.target)
        assert made.text["Command"] == picture.command, "make gallery draws it again"
    mixture = Image.open(ROOT / "docs/images/mixture.png")
    assert mixture.text["Command"] == script.command_of(page, "runs/imae/reconstruction.png")


def test_pictures_are_small_and_used():
    files = [path for path in (ROOT / "docs/images").rglob("*") if path.is_file()]
    used = {(ROOT / page.parent / link).resolve() for page in PAGES for link in links(page)}
    assert set(files) - used == set()
    assert sum(path.stat().st_size for path in files) < 2_000_000


class External(HTMLParser):
    """Collects what a page loads from elsewhere; links that a reader may follow are none of it."""

    def __init__(self):
        super().__init__()
        self.found = []

    def handle_starttag(self, tag, attrs):
        loaded = [value for name, value in attrs if name in ("src", "srcset", "data")]
        if tag == "link":
            loaded += [value for name, value in attrs if name == "href"]
        self.found += [url for url in loaded if re.match(r"(https?:)?//", url or "")]


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    if importlib.util.find_spec("material") is None:
        pytest.skip("needs mkdocs-material")
    folder = tmp_path_factory.mktemp("site")
    done = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "-d", folder],
        cwd=ROOT, env={**os.environ, "NO_MKDOCS_2_WARNING": "1"},
        capture_output=True, text=True, timeout=150, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr + done.stdout
    return folder


def test_the_site_loads_nothing_from_the_network(site):
    for page in site.rglob("*.html"):
        parser = External()
        parser.feed(page.read_text())
        assert parser.found == [], page
    for style in site.rglob("*.css"):
        assert not re.search(r"url\(['\"]?(https?:)?//", style.read_text()), style


def test_pages_of_the_site_have_their_links_and_pictures(site):
    notebooks = {path.stem for path in (ROOT / "docs/notebooks").glob("*.ipynb")}
    made = {path.stem for path in site.rglob("*.html")}
    assert made >= {page.stem for page in DOCS} | notebooks
    for page in site.glob("*.html"):
        text = page.read_text()
        without_code = re.sub(r"<(pre|code)\b.*?</\1>", "", text, flags=re.DOTALL)
        assert "](" not in without_code, f"{page.name}: a link that was not recognised"
        for target in re.findall(r'<(?:img|a)[^>]* (?:src|href)="([^"#:]+)"', text):
            assert (site / target.lstrip("/")).exists(), f"{page.name}: {target}"
