"""Hooks of mkdocs: pages made of notebooks and of files outside of docs/, and links to them.

Markdown is written so that its links work where the files are, as on GitHub. The site shows README,
CONTRIBUTING, CHANGELOG and the tables of results as pages of its own, and names other files of the
repository without a link. Each notebook in docs/notebooks becomes a page, with its outputs.
"""

from __future__ import annotations

import json
import posixpath
import re
from pathlib import Path

from mkdocs.structure.files import File
from mkdocs.utils import get_relative_url

ROOT = Path(__file__).resolve().parent.parent
PAGES = {
    "index.md": "README.md",
    "contributing.md": "CONTRIBUTING.md",
    "changelog.md": "CHANGELOG.md",
    "results.md": "benchmarks/results/README.md",
}
"""Pages of the site by their name there: files of the repository."""
NOTEBOOKS = sorted((ROOT / "docs/notebooks").glob("*.ipynb"))
SHIM = '<script src="https://unpkg.com/iframe-worker/shim"></script>'
OUR_SHIM = "site/file_worker.js"
LINK = re.compile(r"(!?)\[((?:[^\[\]]|\[[^\]]*\])*)\]\(([^)\s#]*)(#[^)\s]*)?\)")
CODE = re.compile(r"(^```.*?^```|`[^`\n]+`(?!\]))", re.DOTALL | re.MULTILINE)
PICTURE = re.compile(
    r'<picture>\s*<source[^>]*srcset="([^"]+)">\s*<img alt="([^"]*)" src="([^"]+)">\s*</picture>'
)


def on_config(config):
    """Add the notebooks to the navigation, after the first two entries."""
    if NOTEBOOKS:
        pages = [f"notebooks/{path.stem}.md" for path in NOTEBOOKS]
        config.nav.insert(2, {"Notebooks": pages})
    return config


def on_files(files, config):
    """Add the pages of notebooks and of files that are outside of docs/."""
    for name, source in PAGES.items():
        files.append(File.generated(config, name, content=(ROOT / source).read_text()))
    for path in NOTEBOOKS:
        cells = json.loads(path.read_text())["cells"]
        text = "\n\n".join(map(_cell, cells))
        files.append(File.generated(config, f"notebooks/{path.stem}.md", content=text))
    return files


def on_page_markdown(markdown, page, config, files):
    """Rewrite the links of a page from places in the repository to places on the site."""
    name = page.file.src_uri
    if name == "index.md":
        page.meta["hide"] = ["navigation"]
    folder = posixpath.dirname(PAGES.get(name, f"docs/{name}"))
    markdown = PICTURE.sub(_both_schemes, markdown)
    parts = CODE.split(markdown)  # text and code in turns
    return "".join(
        part if number % 2 else LINK.sub(lambda link: _link(link, folder), part)
        for number, part in enumerate(parts)
    )


def on_post_page(output, page, config):
    """Take the script that searches opened files from the site, not from the network."""
    return output.replace(SHIM, f'<script src="{get_relative_url(OUR_SHIM, page.url)}"></script>')


def on_post_template(output, template_name, config):
    """Do the same for pages that are not made of Markdown, such as 404.html."""
    return output.replace(SHIM, f'<script src="{OUR_SHIM}"></script>')


def _cell(cell: dict) -> str:
    """Return a cell of a notebook as Markdown: text, or code and its outputs."""
    source = "".join(cell["source"])
    if cell["cell_type"] != "code":
        return source
    return "\n\n".join([f"```python\n{source}\n```", *map(_output, cell["outputs"])])


def _output(output: dict) -> str:
    data = output.get("data", {})
    if "image/png" in data:
        image = "".join("".join(data["image/png"]).split())
        return f"![output](data:image/png;base64,{image})"
    text = "".join(output.get("text") or data.get("text/plain", ""))
    return f"```text\n{text.rstrip()}\n```"


def _both_schemes(picture: re.Match) -> str:
    """Return two images, of which the theme shows the one for the scheme of the reader."""
    dark, alt, light = picture.groups()
    return f"![{alt}]({light}#only-light) ![{alt}]({dark}#only-dark)"


def _link(link: re.Match, folder: str) -> str:
    """Return a link as the site has it, or its text alone if the site lacks the target."""
    bang, text, target, anchor = link[1], link[2], link[3], link[4] or ""
    if not target or "://" in target or target.startswith(("mailto:", "data:")):
        return link[0]
    path = posixpath.normpath(posixpath.join(folder, target))
    page = {source: name for name, source in PAGES.items()}.get(path)
    if page is None and path.startswith("docs/"):
        page = path.removeprefix("docs/")
    if page:
        return f"{bang}[{text}]({page}{anchor})"
    return text if "`" in text else f"`{text}`"
