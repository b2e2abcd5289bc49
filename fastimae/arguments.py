"""From command lines to settings, and from errors to one line and an exit status."""

from __future__ import annotations

import argparse
import contextlib
import io
import logging
import re
import sys
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeVar

import tyro
import yaml
from tqdm import tqdm

from fastimae.checks import check
from fastimae.config import ConfigError, TrainConfig, flatten, read_yaml, updated
from fastimae.flags import flags_of, repeated
from fastimae.recipes import RECIPES

Options = TypeVar("Options")

USAGE_ERROR = 2
_NOT_SAVED = ("recipe", "config", "print_config")


class UsageError(Exception):
    """A command line that cannot be understood, in one line."""


def parse(
    prog: str, options: type[Options], argv: Sequence[str], default: Options | None = None
) -> Options:
    """Options from flags, each given once at most; underscores and hyphens are the same.

    Raises UsageError.
    """
    message = io.StringIO()
    try:
        with contextlib.redirect_stderr(message):
            parsed = tyro.cli(
                options,
                args=list(argv),
                prog=prog,
                config=(tyro.conf.OmitArgPrefixes,),
                use_underscores=True,
                **({} if default is None else {"default": default}),
            )
    except SystemExit as stop:
        if stop.code in (0, None):
            raise
        raise UsageError(f"{_flattened(message.getvalue())} ({prog} --help)") from None
    if problem := repeated(argv, flags_of(options)):
        raise UsageError(f"{problem} ({prog} --help)")
    return parsed


def parse_training(prog: str, argv: Sequence[str]) -> TrainConfig | None:
    """Settings of a training run: flags win over --config, which wins over --recipe.

    Prints them as YAML and returns None where --print_config asks for it. Raises UsageError or
    ConfigError.
    """
    first = argparse.ArgumentParser(add_help=False, allow_abbrev=False, exit_on_error=False)
    first.add_argument("--recipe")
    first.add_argument("--config", type=Path)
    with contextlib.suppress(argparse.ArgumentError):  # the full parser words it
        known, _ = first.parse_known_args(argv)
        default = TrainConfig()
        settings = read_yaml(known.config) if known.config else {}
        recipe = known.recipe or settings.get("recipe")
        if recipe:
            if recipe not in RECIPES:
                raise UsageError(f"--recipe {recipe} is not one of: {', '.join(RECIPES)}")
            default = updated(default, RECIPES[recipe](), f"recipe {recipe}")
        default = updated(default, settings, f"--config {known.config}")
    config = parse(prog, TrainConfig, argv, default)
    check(config)
    if config.run.print_config:
        settings = {k: v for k, v in flatten(config).items() if k not in _NOT_SAVED}
        print(yaml.safe_dump(settings, sort_keys=False), end="")
        return None
    return config


def run_safely(prog: str, command: Callable[[Sequence[str]], int], argv: Sequence[str]) -> int:
    """Run a command; what the user can mend becomes one line on stderr and exit status 2.

    With --debug the traceback is shown too, and kept in output_dir/debug.log.
    """
    _log_through_tqdm()
    try:
        return command(argv)
    except KeyboardInterrupt:
        return 130
    except Exception as error:
        if not _is_users(error):
            raise
        if "--debug" in argv:
            _keep_traceback(argv)
        line = " ".join(str(error).split()) or type(error).__name__
        print(f"{prog}: error: {line}", file=sys.stderr)
        return USAGE_ERROR


def _is_users(error: Exception) -> bool:
    """Whether the message is written for the user. Other errors are ours: they keep a traceback."""
    from fastimae.engine.checkpoint import CheckpointError
    from fastimae.engine.metrics import NonFiniteLoss
    from fastimae.loaders.errors import DataError

    return isinstance(
        error, (UsageError, ConfigError, OSError, CheckpointError, NonFiniteLoss, DataError)
    )


def _keep_traceback(argv: Sequence[str]) -> None:
    traceback.print_exc()
    where = re.search(r"--output[-_]dir[= ](\S+)", " ".join(argv))
    folder = Path(where[1] if where else "output_dir")
    if folder.is_dir():
        with (folder / "debug.log").open("a", encoding="utf-8") as file:
            traceback.print_exc(file=file)


def _flattened(box: str) -> str:
    """tyro's framed error as one line: without frame, title and pointer to the help."""
    lines = [line.strip("│╭╮╰╯ ") for line in box.splitlines()]
    _, *words = [line for line in lines if line.strip("─-")] or [""]
    end = next(
        (i for i, line in enumerate(words) if line.startswith(("For full help", "Argument help"))),
        None,
    )
    return " ".join(" ".join(words[:end]).split())


class _TqdmHandler(logging.Handler):
    """Writes log lines above a progress bar instead of through it."""

    def emit(self, record: logging.LogRecord) -> None:
        tqdm.write(self.format(record), file=sys.stderr)


def _log_through_tqdm() -> None:
    log = logging.getLogger("fastimae")
    log.setLevel(logging.INFO)
    log.propagate = False
    log.handlers = [_TqdmHandler()]
