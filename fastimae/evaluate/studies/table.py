"""The table of a study: our numbers from the results of its runs, and the paper's beside them."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from fastimae.evaluate.pages.evaluations import LOG, read_log
from fastimae.evaluate.pages.tables import is_number
from fastimae.evaluate.result_files import RESULTS, read_results
from fastimae.evaluate.studies.cells import Cell, rows_of
from fastimae.evaluate.studies.commands import Commands
from fastimae.evaluate.studies.file import Column, Study
from fastimae.log import log


class Row(NamedTuple):
    """A row: a model, over all seeds."""

    name: str
    model: str
    """The name of its entry in the file."""
    point: Mapping[str, Any]
    """Its place in the grid."""
    realised: Mapping[str, Any]
    """What the training's log says of flags of the grid: the share of mixtures within a class."""
    numbers: Mapping[str, Sequence[float]]
    """Of each column, a number for each seed that is done."""
    paper: Mapping[str, float]

    def mean(self, column: str) -> float | None:
        """Return the mean over the seeds, None if none is done."""
        return statistics.fmean(self.numbers[column]) if self.numbers[column] else None

    def deviation(self, column: str) -> float | None:
        """Return the standard deviation over the seeds (n - 1), None for fewer than two."""
        values = self.numbers[column]
        return statistics.stdev(values) if len(values) > 1 else None

    @property
    def seeds(self) -> int:
        """The number of seeds that are done in every column that the row has."""
        return min((len(values) for values in self.numbers.values() if values), default=0)


def rows(study: Study, commands: Commands) -> list[Row]:
    """Return the rows of the table, with what is done of them."""
    return [
        Row(
            name=cells[0].row,
            model=cells[0].model,
            point=cells[0].point,
            realised=_realised(cells[0], commands),
            numbers={
                column.name: _numbers(cells, column, commands) for column in study.columns
            },
            paper=study.paper.get(cells[0].row, {}),
        )
        for cells in rows_of(commands.cells)
    ]  # fmt: skip


def table(study: Study, found: Sequence[Row]) -> list[dict[str, Any]]:
    """Return the table: None for numbers that are missing, or that the paper has not."""
    several = any(len(values) > 1 for row in found for values in row.numbers.values())
    in_paper = {name for row in found for name in row.paper}
    realised = {name for row in found for name in row.realised}
    lines = []
    for row in found:
        line: dict[str, Any] = {"model": row.name}
        for flag in study.grid:
            line[flag] = row.point.get(flag)
            if flag in realised:
                line[f"{flag}, realised"] = row.realised.get(flag)
        line |= {"seeds": row.seeds} if several else {}
        for column in (column.name for column in study.columns):
            line[column] = row.mean(column)
            line |= {f"{column}, deviation": row.deviation(column)} if several else {}
            line |= {f"{column}, paper": row.paper.get(column)} if column in in_paper else {}
        lines.append(line)
    return lines


def number_of(numbers: Mapping[str, Any], column: Column) -> float | None:
    """Return a column's number from the numbers of a results.json, None if it has no such one."""
    found: Any = numbers
    for key in column.keys:
        if isinstance(found, list):
            fitting = [row for row in found if column.where.items() <= row.items()]
            found = fitting[0] if len(fitting) == 1 else {}
        found = found.get(key) if isinstance(found, dict) else None
    return found if is_number(found) else None


def _numbers(cells: Sequence[Cell], column: Column, commands: Commands) -> list[float]:
    found = []
    for cell in cells:
        folder = commands.folder(cell, column.evaluation)
        mine = column.evaluation in [each.name for each in commands.evaluations(cell)]
        if not mine or not (folder / RESULTS).is_file():
            continue
        numbers = read_results(folder)["numbers"]
        number = number_of(numbers, column)
        if number is None:
            known = ", ".join(numbers)
            log.warning(
                "%s has no single number %s: it has %s", folder, ".".join(column.keys), known
            )
        else:
            found.append(number)
    return found


def _realised(cell: Cell, commands: Commands) -> dict[str, Any]:
    epochs = read_log(commands.folder(cell) / LOG)
    last = epochs[-1] if epochs else {}
    return {flag: last[flag] for flag in cell.point if flag in last}
