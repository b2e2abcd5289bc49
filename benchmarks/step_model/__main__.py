"""How long a step should take on a GPU: `python -m benchmarks.step_model`.

A model, not a measurement: the time of every kernel of a step, from the bytes and operations that
it needs and the rates in `assumptions`; rung by rung, as `benchmarks.train --ladder` measures them.
--compare puts measurements beside it.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path

import torch

from benchmarks.harness import BenchmarkReport, out_file
from benchmarks.step_model.assumptions import CARDS, Card
from benchmarks.step_model.tables import (
    GPUS,
    compared,
    kernel_rows,
    markdown,
    rung_rows,
    sections,
    share_rows,
    why_not_compared,
)
from fastimae.flags import OnceParser
from fastimae.streams import closed_early_is_fine

PROG = "python -m benchmarks.step_model"
USUAL = "H100"


@closed_early_is_fine()
def main(argv: list[str] | None = None) -> int:
    """Compute and print the tables."""
    options = parser().parse_args(argv)
    card = dataclasses.replace(CARDS[_card(options)], epilogues=options.product_share)
    parts: dict[str, object] = {
        "card": card.name,
        "rungs": rung_rows(card, options.batch),
        "gpus": share_rows(card, options.batch, options.gpus),
    }
    if options.kernels:
        parts["kernels"] = kernel_rows(card, options.batch)
    if options.compare:
        parts["measured_on"] = options.compare["device"]
        parts["compared"] = compared(card, options.compare)
        parts["why_not"] = why_not_compared(options.compare, parts["compared"])
    report = BenchmarkReport(
        torch.device("cpu"), PROG, argv, options.out, page=markdown, model=True, **parts
    )
    report.finish()
    print("\n".join(sections(report)))
    return 0


def parser() -> argparse.ArgumentParser:
    """Make the parser of the command line."""
    made = OnceParser(prog=PROG, description=__doc__)
    made.add_argument(
        "--card", choices=CARDS, help="GPU whose rates to use; by default that of --compare, if"
        f" its rates are known, else {USUAL}",
    )  # fmt: skip
    made.add_argument("--batch", type=_count, help="images per GPU; by default the benchmark's")
    made.add_argument("--gpus", type=_count, nargs="+", default=GPUS, help="numbers of GPUs")
    made.add_argument(
        "--product_share", type=_share, default=Card.epilogues, metavar="X",
        help="rate of our products with epilogues, as a share of cuBLAS' without",
    )  # fmt: skip
    made.add_argument(
        "--kernels", action="store_true", help="add a row for every kernel of a block"
    )
    made.add_argument(
        "--compare", type=_measured, metavar="F.json", help="results of benchmarks.train --ladder"
    )
    made.add_argument("--out", type=out_file, help="write the tables to this file, as JSON")
    return made


def _card(options: argparse.Namespace) -> str:
    measured = options.compare["device"] if options.compare else ""
    return options.card or next((name for name in CARDS if name in measured), USUAL)


def _count(text: str) -> int:
    if not text.isdecimal() or not int(text):
        raise argparse.ArgumentTypeError(f"{text} is not a whole number above 0")
    return int(text)


def _share(text: str) -> float:
    try:
        share = float(text)
    except ValueError:
        share = 0.0
    if not 0 < share <= 2:
        raise argparse.ArgumentTypeError(f"{text} is not a share above 0, up to 2")
    return share


def _measured(text: str) -> Mapping:
    try:
        found = json.loads(Path(text).read_text())
    except (OSError, ValueError) as error:
        raise argparse.ArgumentTypeError(f"{text} is not a report: {error}") from error
    if not isinstance(found, dict) or not {"device", "ladder", "results"} <= found.keys():
        raise argparse.ArgumentTypeError(f"{text} is not a report of benchmarks.train")
    return found


if __name__ == "__main__":
    raise SystemExit(main())
