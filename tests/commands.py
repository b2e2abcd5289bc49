"""All commands by name: their functions, and the classes of their options."""

from fastimae import cli
from fastimae.bench.options import BenchOptions
from fastimae.config import TrainConfig
from fastimae.evaluate.command import TASKS
from fastimae.interop.options import ExportOptions, ImportOptions

COMMANDS = {
    "train": cli.train,
    "convert": cli.convert,
    "bench": cli.bench,
    "export": cli.export,
    "import": cli.import_,
    "doctor": cli.doctor,
    "eval": cli.evaluate,
}
OPTIONS = {
    "fastimae-train": TrainConfig,
    "fastimae-convert": cli.ConvertArguments,
    "fastimae-bench": BenchOptions,
    "fastimae-doctor": cli.DoctorOptions,
    "fastimae-export": ExportOptions,
    "fastimae-import": ImportOptions,
    **{f"fastimae-eval {name}": task.options for name, task in TASKS.items()},
}
