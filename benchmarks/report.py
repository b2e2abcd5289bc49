"""Tables of the documents, from committed results: `python -m benchmarks.report [--check]`.

A page says where a table goes, and of which file it is, or of which files the first that is there:

    <!-- train table: benchmarks/results/F.json or benchmarks/results/G.json or nothing -->
    <!-- end -->

What is between these lines is replaced; "nothing" says that it has not been measured. So a page
shows a GPU's figures once there are some. benchmarks/results/README.md is written as a whole.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from benchmarks import cifar10
from benchmarks.attention_table import summary
from benchmarks.gemm import products_table
from benchmarks.harness import ROOT, card, number, table, versions
from benchmarks.loaders.markdown import loader_table
from benchmarks.train.tables import ladder_table, step_table
from fastimae.flags import OnceParser

RESULTS = Path("benchmarks/results")
PAGES = (Path("README.md"), Path("docs/kernels.md"))
INDEX = RESULTS / "README.md"
NOTHING, NOT_MEASURED = "nothing", "Not measured on a GPU yet.\n"
_SOURCE = rf"(?:\S+\.json|{NOTHING})"
MARKED = re.compile(
    rf"(<!-- ([a-z ]+): ({_SOURCE}(?: or {_SOURCE})*)(?: (\S+))? -->\n).*?(<!-- end -->)", re.DOTALL
)


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
                path.write_text(text)
    if stale:
        verb = "not as results say: python -m benchmarks.report" if options.check else "written"
        print(f"{', '.join(stale)}: {verb}", file=sys.stderr)
    return int(options.check and bool(stale))


def pages(root: Path = ROOT) -> dict[Path, str]:
    """What each page should be. Raises ValueError for a marker that cannot be filled."""
    found = {page: filled((root / page).read_text(), root) for page in PAGES}
    return found | {INDEX: index(root)}


def filled(text: str, root: Path) -> str:
    """The text with every table anew."""

    def fill(found: re.Match) -> str:
        begin, kind, sources, case, end = found.groups()
        there = [one for one in sources.split(" or ") if one == NOTHING or (root / one).exists()]
        if kind not in TABLES or not there:
            raise ValueError(f"<!-- {kind}: {sources} -->: no such table, or no such file")
        source = next((one for one in there if one == NOTHING or _whole(root / one)), there[-1])
        if source == NOTHING:
            return f"{begin}{NOT_MEASURED}{end}"
        report = json.loads((root / source).read_text())
        if case is not None:
            report = {**report, **{key: _only(report.get(key, []), case) for key in _BY_CASE}}
        return f"{begin}{TABLES[kind](report)}{end}"

    return MARKED.sub(fill, text)


def _whole(file: Path) -> bool:
    """Whether a run came to its end and has measured something. Pages avoid the others."""
    report = json.loads(file.read_text())
    return report.get("complete", True) and any(report.get(key) for key in _MEASURED)


def index(root: Path) -> str:
    """benchmarks/results/README.md: every file, with its conditions and tables."""
    text = [
        "# Results\n",
        "Made from the JSON files beside it by `python -m benchmarks.report`.\n",
    ]
    for file in sorted((root / RESULTS).glob("*.json")):
        report = json.loads(file.read_text())
        text += [f"## [{file.name}]({file.name})\n", conditions(report), tables(report)]
        beside = [file.with_suffix(end) for end in (".md", ".png")]
        text += [f"More: [{one.name}]({one.name})\n" for one in beside if one.exists()]
    return "\n".join(text)


def conditions(report: Mapping) -> str:
    """Where, with what, when."""
    return (
        f"{card(report)}; {report['date'][:10]}, commit {report['commit']}, {versions(report)}."
        f"{'' if report.get('complete', True) else ' Not complete.'}\n\n`{report['command']}`\n"
    )


def train_table(report: Mapping) -> str:
    """A row for each case: images a second of each variant, and how many times ours is faster."""
    made_up = [row for row in report["results"] if row["data"] == "synthetic"]
    by_case: dict[str, dict[str, Mapping]] = {}
    for row in made_up:
        by_case.setdefault(row["case"], {})[row["variant"]] = row
    variants = list(dict.fromkeys(row["variant"] for row in made_up))
    measured = {case: by for case, by in by_case.items() if "fastimae" in by}  # others: cut off
    return table([_train_row(case, by, variants) for case, by in measured.items()])


def _train_row(case: str, by: Mapping[str, Mapping], variants: Sequence[str]) -> dict[str, object]:
    """by: what was measured of the case, by variant."""
    ours, speeds = by["fastimae"], {name: row["img_per_s"] for name, row in by.items()}
    ratios = {name: ours["img_per_s"] / speed for name, speed in speeds.items()}
    return {
        "case": case,
        "batch": ours["batch_size"],
        **{name: number(speeds.get(name)) for name in variants},
        **{
            f"over {name}": f"{ratios[name]:.2f}" if name in ratios else ""
            for name in variants
            if name != "fastimae"
        },
        "MFU": f"{ours['mfu']:.0%}",
    }


def fed_table(report: Mapping) -> str:
    """The steps that were fed by loaders."""
    return step_table([row for row in report["results"] if row["data"] != "synthetic"])


def ladders(report: Mapping) -> str:
    """The ladder of each case that has one."""
    cases = dict.fromkeys(row["case"] for row in report["ladder"])
    parts = [ladder_table(_only(report["ladder"], case)) for case in cases]
    if len(parts) == 1:
        return parts[0]
    return "\n".join(f"{case}:\n\n{part}" for case, part in zip(cases, parts, strict=True))


def kernel_table(report: Mapping) -> str:
    """A row for each op and pass: milliseconds of each variant, ours as a share of a copy."""
    rows: dict[tuple, dict[str, object]] = {}
    for one in report["rows"]:
        if one["op"] == "copy":
            continue
        key = one["op"], one["shape"], one["pass"]
        row = rows.setdefault(key, dict(zip(("op", "shape", "pass"), key, strict=True)))
        row[f"{one['variant']}, ms"] = number(one["ms"])
        if one["variant"] == "auto":
            row["of a copy's GB/s"] = f"{one['of copy']:.0%}"
    return table(list(rows.values()))


def aot_line(report: Mapping) -> str:
    """How many kernels were compiled, and how many fall short."""
    rows = report["rows"]
    archs = ", ".join(sorted({row["arch"] for row in rows}))
    short = sum(bool(row["falls short"]) for row in rows)
    return f"{len(rows)} kernels compiled for {archs}; {short} fall short.\n"


def learned_tables(report: Mapping) -> str:
    """What was learned on CIFAR-10: probes, separability, losses, and the commands."""
    commands = "\n".join(report["commands"])
    losses = [
        {"run": name, "epochs": len(lines)}
        | {
            f"{when} loss": number(lines[i]["train_loss"])
            for when, i in (("first", 0), ("last", -1))
        }
        for name, lines in report["curves"].items()
    ]
    return f"{cifar10.markdown(report)}\n{table(losses)}\n```\n{commands}\n```\n"


def curve_line(report: Mapping) -> str:
    """How far the loss of ours is from the plain pipeline's."""
    steps, last = len(report["curve"]["fastimae"]), {k: v[-1] for k, v in report["curve"].items()}
    return (
        f"{report['case']} on {report['data']}: after {steps} steps the loss is "
        f"{last['fastimae']:.4g}, the plain pipeline's {last['reference']:.4g}; the curves are "
        f"{report['difference']:.2%} apart in the mean.\n"
    )


TABLES: dict[str, Callable[[Mapping], str]] = {
    "train table": train_table,
    "fed table": fed_table,
    "ladder table": ladders,
    "loader table": loader_table,
    "kernel table": kernel_table,
    "aot line": aot_line,
    "curve line": curve_line,
    "learned": cifar10.markdown,
    "conditions": conditions,
}
_BY_CASE = ("results", "ladder")
_MEASURED = ("results", "ladder", "rows", "curve", "separability")


def parts_table(report: Mapping) -> str:
    """A row for each part of a day on a GPU: how it ended, and the seconds it took of those it
    had."""
    return table(
        [
            {"part": name, "seconds": part["seconds"], "had": part["had"], "status": part["status"]}
            for name, part in report["parts"].items()
        ]
    )


def train_tables(report: Mapping) -> str:
    """All steps, and the ladder of each case that has one."""
    made = {"results": lambda report: step_table(report["results"]), "ladder": ladders}
    return "\n".join(make(report) for key, make in made.items() if report[key])


_OF_REPORTS: dict[str, Callable[[Mapping], str]] = {
    "ladder": train_tables,
    "originals": loader_table,
    "traffic": kernel_table,
    "separability": learned_tables,
    "curve": curve_line,
    "parts": parts_table,
    "square": products_table,
    "finished": lambda report: table(summary(report["rows"])),
}
"""By what only such a report has."""


def tables(report: Mapping) -> str:
    """All that fits a report, whatever it is of."""
    found = next((make for key, make in _OF_REPORTS.items() if key in report), None)
    if found is not None:
        return found(report)
    rows = report.get("rows")
    if not rows:
        return ""
    return aot_line(report) if any("falls short" in row for row in rows) else table(rows)


def _only(rows: list[dict], case: str) -> list[dict]:
    return [row for row in rows if row.get("case") == case]


if __name__ == "__main__":
    sys.exit(main())
