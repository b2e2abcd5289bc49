"""Predictions of the model, as rows and as Markdown."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable, Mapping, Sequence

from benchmarks.harness import number, page, table
from benchmarks.rungs import ALWAYS
from benchmarks.step_model.assumptions import CARDS, Card
from benchmarks.step_model.block import block, first_block, last_block
from benchmarks.step_model.cluster import share
from benchmarks.step_model.step import LARGE_BATCH, ladder, model_of, parts
from benchmarks.train.cases import CASES

TABLE = ("mae_vit_base_patch16", "imae_vit_base_patch16", "mae_vit_large_patch16")
"""Cases in the ladder table."""
HUGE = dataclasses.replace(
    CASES["mae_vit_large_patch16"], name="mae_vit_huge_patch14", model="mae_vit_huge_patch14",
    batch_cuda=64,
)  # fmt: skip
GPUS = (1, 8, 64)
OURS = "fastimae"
"""The variant in `benchmarks.train`'s main table that has all rungs."""
Row = dict[str, object]


def rung_rows(card: Card, batch: int | None = None) -> list[Row]:
    """Make rows of each rung of each case. batch: None: the benchmark's and a large one."""
    rows = []
    for case in (CASES[name] for name in TABLE):
        for size in (batch,) if batch else (case.batch_cuda, LARGE_BATCH * case.batch_cuda):
            for name, seconds in ladder(card, model_of(case, size)).items():
                step = sum(seconds.values())
                rows.append(
                    {
                        "case": case.name, "batch": size, "rung": name, "ms": 1e3 * step,
                        "img/s": size / step,
                        "parts, ms": {part: 1e3 * value for part, value in seconds.items()},
                    }
                )  # fmt: skip
    return rows


def kernel_rows(card: Card, batch: int | None = None) -> list[Row]:
    """Make rows of every kernel of the blocks of each case, with all rungs."""
    rows = []
    for case in (CASES[name] for name in TABLE):
        model = model_of(case, batch or case.batch_cuda)
        kinds = {
            "encoder": block(card, model.encoder, ALWAYS),
            "decoder, first": first_block(card, model.decoder, 1 + model.visible, ALWAYS),
            "decoder": block(card, model.decoder, ALWAYS),
            "decoder, last": last_block(card, model.decoder, model.masked, ALWAYS),
        }
        for kind, one in kinds.items():
            for direction in ("forward", "backward"):
                for kernel, seconds in getattr(one, direction).items():
                    rows.append(
                        {"case": case.name, "block": kind, "pass": direction, "kernel": kernel,
                         "us": 1e6 * seconds}
                    )  # fmt: skip
    return rows


def share_rows(card: Card, batch: int | None = None, numbers: Sequence[int] = GPUS) -> list[Row]:
    """Make rows of one of several GPUs, at a batch size per GPU; None: the benchmark's.

    A step with FSDP is not modelled: it is not recorded as a graph.
    """
    rows = []
    for case in (*(CASES[name] for name in TABLE), HUGE):
        model = model_of(case, batch or case.batch_cuda)
        alone = sum(parts(card, model, ALWAYS).values())
        for gpus in numbers:
            for parallel in ("ddp", "fsdp") if gpus > 1 else ("alone",):
                one = share(card, model, alone, gpus, sharded=parallel == "fsdp")
                rows.append(
                    {
                        "case": case.name, "GPUs": gpus, "way": parallel,
                        "batch a GPU": model.samples,
                        "weights, GB": one.weights / 1e9, "activations, GB": one.activations / 1e9,
                        "memory, GB": one.memory / 1e9, "sent, GB": one.sent / 1e9,
                        "exchange, ms": 1e3 * one.exchange,
                    }
                )  # fmt: skip
                if parallel != "fsdp":
                    rows[-1] |= {
                        "step, ms": 1e3 * one.step, "img/s": gpus * model.samples / one.step,
                    }  # fmt: skip
    return rows


def compared(card: Card, report: Mapping) -> list[Row]:
    """Make rows of a GPU's measured steps on made-up images, beside the predictions.

    `off` is measured over predicted.
    """
    found = []
    for row in _measured(report) if "gpu" in report else ():
        case = CASES.get(row["case"])
        if case is None or row["data"] != "synthetic":
            continue
        steps = ladder(card, model_of(case, row["batch_size"]))
        name = ALWAYS[-1] if row["variant"] == OURS else row["variant"]
        if name in steps:
            predicted = 1e3 * sum(steps[name].values())
            found.append(
                {
                    "case": case.name, "batch": row["batch_size"], "rung": row["variant"],
                    "predicted, ms": predicted, "measured, ms": row["ms"],
                    "off": row["ms"] / predicted,
                }
            )  # fmt: skip
    return found


def why_not_compared(report: Mapping, rows: list[Row]) -> str:
    """Explain why nothing of a report could be compared; empty if there are rows."""
    if rows:
        return ""
    if not _measured(report):
        return "It has no rows: its run ended before the first."
    if "gpu" not in report:
        return "It was measured without a GPU; the model is of a GPU."
    return "None of its rows is for a case and a rung of the model."


def _measured(report: Mapping) -> list[Row]:
    return [*report["ladder"], *report["results"]]


def markdown(report: Mapping) -> str:
    """Make the page of a report."""
    return page(report, *sections(report))


def sections(report: Mapping) -> list[str]:
    """Make all tables of a report, with their headings."""
    named = {
        "A step, rung by rung": rung_table(report["rungs"]),
        "Several GPUs": share_table(report["gpus"]),
        "Kernels of a block, us": table(report.get("kernels", ())),
        f"Measured on {report.get('measured_on')}": report.get("why_not")
        or table(report.get("compared", ())),
    }
    keys = ("rungs", "gpus", "kernels", "compared")
    tables = [f"## {name}\n\n{text}" for key, (name, text) in zip(keys, named.items(), strict=True)
             if key in report]  # fmt: skip
    return [f"A model of the {report['card']}, not a measurement.\n", *tables]


def rung_table(rows: list[Row]) -> str:
    """Make a row for each rung: ms and images per second, by case and batch."""
    lines: dict[str, Row] = {}
    for row in rows:
        line = lines.setdefault(row["rung"], {"each rung with those above it": row["rung"]})
        line[f"{_short(row['case'])} {row['batch']}"] = f"{row['ms']:.1f} ms, {row['img/s']:.0f}"
    return table(list(lines.values()))


def share_table(rows: list[Row]) -> str:
    """Make the table of memory and speed of one of several GPUs."""
    short = [{**row, "case": _short(row["case"])} for row in rows]
    return table([{name: _rounded(value) for name, value in row.items()} for row in short])


def _short(name: str) -> str:
    objective, size = name.partition("_vit_")[::2]
    return f"{'i-MAE' if objective == 'imae' else 'MAE'}-{size[0].upper()}"


def _rounded(value: object) -> object:
    """Round a model's figure to two or three digits."""
    if not isinstance(value, float):
        return value
    return number(value, None if value >= 100 else ".1f" if value >= 10 else ".2g")


IN_PAGES: dict[str, Callable[[Card], str]] = {
    "rungs": lambda card: rung_table(rung_rows(card)),
    "gpus": lambda card: share_table(share_rows(card)),
}
"""Tables by their name in markers."""
MARKED = re.compile(r"(<!-- model: (\w+) (\w+) -->\n).*?(<!-- end -->)", re.DOTALL)


def filled(text: str) -> str:
    """Fill the tables of a text again, one for each marker `<!-- model: rungs H100 -->`."""
    return MARKED.sub(
        lambda marker: f"{marker[1]}\n{IN_PAGES[marker[2]](CARDS[marker[3]])}\n{marker[4]}", text
    )
