"""The table of a measurement of small data."""

from __future__ import annotations

from collections.abc import Mapping

from benchmarks.harness import number, table


def markdown(report: Mapping) -> str:
    """Make a row for each way, and a line on what was measured."""
    rows = report["small_data"]
    if not rows:
        return "(nothing measured)\n"
    note = (
        f"{report['data']}; {report['case']} with {report['model']}, batches of "
        f"{report['batch_size']}, {report['num_workers']} threads or processes that load.\n"
    )
    return f"{table([_shown(row) for row in rows])}\n{note}"


def _shown(row: Mapping) -> dict[str, str]:
    return {
        "batches from": row["way"],
        "step, img/s": number(row.get("img_per_s")),
        "waits for data": number(row.get("data_wait"), ".1%"),
        "steps at once": number(row.get("steps_at_once"), "d"),
        "loader alone, img/s": number(row.get("crops_per_s")),
        "images kept, MB": number(row["kept_bytes"] / 1e6) if row["kept_bytes"] else "",
        "loader: host, MB": number(row["host_bytes"] / 1e6),
        "GPU, MB": number(row["gpu_bytes"] / 1e6) if "gpu_bytes" in row else "",
        "step, GB": number(row.get("step_gb")),
    }
