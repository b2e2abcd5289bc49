"""Tables of the documents, made from committed results: `python -m benchmarks.report [--check]`.

A marker in a page says which table goes there, and from which file; of several, from the first that
exists:

    <!-- train table: benchmarks/results/F.json or benchmarks/results/G.json or nothing -->
    <!-- end -->

The lines between are replaced; "nothing" says that it has not been measured. So a page shows GPU
results as soon as there are any. Tables of the model of a step have markers of their own,
`<!-- model: rungs H100 -->`, and so have recipes, `<!-- recipes -->`. benchmarks/results/README.md
and the bar chart of loaders, in docs/images, are generated completely.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable, Mapping
from pathlib import Path

from benchmarks import accelerate, costs, learned, recipes
from benchmarks.attention import table as attention_table
from benchmarks.cifar10 import tables as cifar10
from benchmarks.gemm import products_table
from benchmarks.harness import ROOT, conditions_line, table
from benchmarks.kernels.tables import kernel_table
from benchmarks.loaders.chart import chart_line, charts
from benchmarks.loaders.tables import loader_table
from benchmarks.mlp import table as mlp_table
from benchmarks.small_data import tables as small_data
from benchmarks.step_model import tables as step_model
from benchmarks.train.tables import curve_line, fed_table, ladders, train_table, train_tables
from fastimae.flags import OnceParser
from fastimae.streams import closed_early_is_fine

RESULTS = Path("benchmarks/results")
PAGES = (
    *(Path("README.md"), Path("docs/accelerate.md")),
    *(Path("docs/evaluating.md"), Path("docs/kernels.md")),
    *(Path("docs/loading.md"), Path("docs/performance.md"), Path("docs/recipes.md")),
    Path("docs/training.md"),
)
INDEX = RESULTS / "README.md"
CHART, CHART_OF = Path("docs/images/loaders.svg"), RESULTS / "loaders_2_cores_zen5.json"
NOTHING, NOT_MEASURED = "nothing", "Not measured on a GPU yet.\n"
_SOURCE = rf"(?:\S+\.json|{NOTHING})"
MARKED = re.compile(
    rf"(<!-- ([a-z ]+): ({_SOURCE}(?: or {_SOURCE})*)(?: (\S+))? -->\n).*?(<!-- end -->)", re.DOTALL
)


@closed_early_is_fine()
def main(argv: list[str] | None = None, root: Path = ROOT) -> int:
    """Write the pages; with --check change nothing, and return 1 if one is not up to date."""
    parser = OnceParser(prog="python -m benchmarks.report", description=__doc__)
    parser.add_argument("--check", action="store_true", help="change nothing; exit 1 if stale")
    options = parser.parse_args(argv)
    stale = []
    for page, text in pages(root).items():
        path = root / page
        if not path.exists() or path.read_text() != text:
            stale.append(str(page))
            if not options.check:
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_text(text)
    if stale:
        outcome = "out of date, run python -m benchmarks.report" if options.check else "written"
        print(f"{', '.join(stale)}: {outcome}", file=sys.stderr)
    return int(options.check and bool(stale))


def pages(root: Path = ROOT) -> dict[Path, str]:
    """Make the text of each page. Raises ValueError for a marker that cannot be filled."""
    made = {page: filled((root / page).read_text(), root) for page in PAGES}
    return made | {INDEX: index(root)} | loader_charts(root)


def loader_charts(root: Path) -> dict[Path, str]:
    """Make the chart of loaders for light and for dark pages, if there is a result to draw."""
    if not (root / CHART_OF).exists():
        return {}
    drawn = charts(json.loads((root / CHART_OF).read_text()))
    return {CHART.with_stem(f"{CHART.stem}-{scheme}"): svg for scheme, svg in drawn.items()}


def filled(text: str, root: Path) -> str:
    """Fill the marked tables of a text again."""

    def fill(marker: re.Match) -> str:
        begin, kind, sources, case, end = marker.groups()
        existing = [s for s in sources.split(" or ") if s == NOTHING or (root / s).exists()]
        if kind not in TABLES or not existing:
            raise ValueError(f"<!-- {kind}: {sources} -->: no such table, or no such file")
        usable = (s for s in existing if s == NOTHING or _is_usable(root / s))
        source = next(usable, existing[-1])
        if source == NOTHING:
            return f"{begin}{NOT_MEASURED}{end}"
        report = json.loads((root / source).read_text())
        if case is not None:
            report = {**report, **{key: _of_case(report.get(key, []), case) for key in _BY_CASE}}
        return f"{begin}{TABLES[kind](report)}{end}"

    return step_model.filled(recipes.filled(MARKED.sub(fill, text)))


def _is_usable(file: Path) -> bool:
    """Check that a run was completed and measured something. Pages skip other files."""
    report = json.loads(file.read_text())
    return report.get("complete", True) and any(report.get(key) for key in _MEASURED)


def _of_case(rows: list[dict], case: str) -> list[dict]:
    return [row for row in rows if row.get("case") == case]


def index(root: Path) -> str:
    """Make benchmarks/results/README.md: every file, with its conditions and tables."""
    text = [
        "# Results\n",
        "Made from the JSON files beside it by `python -m benchmarks.report`.\n",
    ]
    for file in sorted((root / RESULTS).glob("*.json")):
        report = json.loads(file.read_text())
        text += [f"## [{file.name}]({file.name})\n", conditions_line(report), tables(report)]
        beside = [file.with_suffix(end) for end in (".md", ".png")]
        text += [f"More: [{one.name}]({one.name})\n" for one in beside if one.exists()]
    return "\n".join(text)


def aot_line(report: Mapping) -> str:
    """Count the kernels that `tests.aot` compiled, and those that fall short."""
    rows = report["rows"]
    archs = ", ".join(sorted({row["arch"] for row in rows}))
    short = sum(bool(row["falls short"]) for row in rows)
    return f"{len(rows)} kernels compiled for {archs}; {short} fall short.\n"


def parts_table(report: Mapping) -> str:
    """Make a row for each part of a GPU day: how it ended, seconds taken and seconds granted."""
    return table(
        [
            {"part": name, "seconds": part["seconds"], "had": part["had"], "status": part["status"]}
            for name, part in report["parts"].items()
        ]
    )


def sweep_table(report: Mapping) -> str:
    """Make the summary of a sweep over the variants of an op."""
    summaries = {"attention": attention_table.summary, "mlp": mlp_table.summary}
    return table(summaries[report["op"]](report["rows"]))


def tables(report: Mapping) -> str:
    """Make all tables that fit a report, of whichever benchmark it is."""
    make = next((make for key, make in _BY_KEY.items() if key in report), None)
    if make is not None:
        return make(report)
    rows = report.get("rows")
    if not rows:
        return ""
    return aot_line(report) if any("falls short" in row for row in rows) else table(rows)


TABLES: dict[str, Callable[[Mapping], str]] = {
    "train table": train_table,
    "fed table": fed_table,
    "ladder table": ladders,
    "loader table": loader_table,
    "chart line": chart_line,
    "kernel table": kernel_table,
    "aot line": aot_line,
    "curve line": curve_line,
    "cifar tables": cifar10.markdown,
    "learned": learned.markdown,
    "costs": costs.markdown,
    "accelerate table": accelerate.markdown,
    "small data": small_data.markdown,
    "conditions": conditions_line,
}
"""Tables by their name in markers."""
_BY_CASE = ("results", "ladder")
_MEASURED = (
    "results", "ladder", "rows", "curve", "cells", "separability", "costs", "accelerated",
    "small_data",
)  # fmt: skip
_BY_KEY: dict[str, Callable[[Mapping], str]] = {
    "ladder": train_tables,
    "originals": loader_table,
    "traffic": kernel_table,
    "cells": cifar10.markdown,
    "separability": learned.all_tables,
    "costs": costs.markdown,
    "accelerated": accelerate.markdown,
    "small_data": small_data.markdown,
    "curve": curve_line,
    "parts": parts_table,
    "square": products_table,
    "finished": sweep_table,
}
"""Tables by a key that only reports of that benchmark have."""


if __name__ == "__main__":
    sys.exit(main())
