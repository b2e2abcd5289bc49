"""From command lines to settings, and from errors to one line and an exit status."""

from __future__ import annotations

import argparse
import contextlib
import functools
import io
import logging
import re
import sys
import traceback
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import tyro
import yaml
from tqdm import tqdm

from fastimae.engine.launcher import stands_aside
from fastimae.engine.signals import Terminated
from fastimae.flags import flags_of, repeated
from fastimae.folders import FolderError
from fastimae.log import log
from fastimae.recipes import RECIPES
from fastimae.settings import ConfigError
from fastimae.wording import as_command

if TYPE_CHECKING:
    from fastimae.config import TrainConfig

Options = TypeVar("Options")
Work = Callable[[Sequence[str]], int]
Command = Callable[..., int]

USAGE_ERROR = 2
_UNFIT = re.compile(
    r"Error parsing (--\w+(?:/--\w+)*): no type matching (.+?) could be instantiated from "
    r"(\[.*?\])\. Got.*"
)
"""What tyro says of a value that a flag with two types, such as None and a number, cannot take."""
_QUOTED = re.compile(r"'([^']*)'")
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


def peek(argv: Sequence[str], *names: str) -> dict[str, str]:
    """The flags called `names` that argv gives: those that choose the defaults of others.

    Empty where one lacks its value: the full parser words it.
    """
    first = argparse.ArgumentParser(
        add_help=False,
        allow_abbrev=False,
        exit_on_error=False,
        argument_default=argparse.SUPPRESS,
    )
    for name in names:
        first.add_argument(f"--{name}")
    try:
        return vars(first.parse_known_args(argv)[0])
    except argparse.ArgumentError:
        return {}


def recipe_called(name: str, recipes: Mapping[str, Callable[[], dict]]) -> dict[str, Any]:
    """Settings of the recipe of that name. Raises UsageError."""
    if name not in recipes:
        raise UsageError(f"--recipe {name} is not one of: {', '.join(recipes)}")
    return recipes[name]()


def parse_training(prog: str, argv: Sequence[str]) -> TrainConfig | None:
    """Settings of a training run: flags win over --config, which wins over --recipe.

    Prints them as YAML and returns None where --print_config asks for it. Raises UsageError or
    ConfigError.
    """
    from fastimae.config import (  # which imports torch
        TrainConfig,
        config_with,
        flatten,
        read_yaml,
        updated,
    )

    first, settings = peek(argv, "config", "recipe", "objective"), {}
    file = Path(first["config"]) if "config" in first else None
    if file:
        settings = read_yaml(file)
    recipe = first.get("recipe") or settings.get("recipe")
    of_recipe = recipe_called(recipe, RECIPES) if recipe else {}
    objective = first.get("objective") or (of_recipe | settings).get("objective")
    default = config_with(str(objective)) if objective else TrainConfig()
    default = updated(default, of_recipe, f"recipe {recipe}")
    default = updated(default, settings, f"--config {file}")
    config = parse(prog, type(default), argv, default)
    config.check()
    if config.run.print_config:
        settings = {k: v for k, v in flatten(config).items() if k not in _NOT_SAVED}
        print(yaml.safe_dump(settings, sort_keys=False), end="")
        return None
    return config


def command(prog: str, *, several: bool = False) -> Callable[[Work], Command]:
    """Make a function of arguments a command: it takes them from sys.argv where it is given none.

    What the user can mend becomes one line on stderr and exit status 2. With --debug the
    traceback is shown too, and kept in debug.log where output goes.
    several: it may be one of several processes; else all but the first have nothing to do.
    """

    def decorate(work: Work) -> Command:
        @functools.wraps(work)
        def run(argv: Sequence[str] | None = None) -> int:
            with as_command():
                return _run_safely(prog, work, sys.argv[1:] if argv is None else argv, several)

        return run

    return decorate


def _run_safely(prog: str, work: Work, argv: Sequence[str], several: bool) -> int:
    _log_through_tqdm()
    try:
        return 0 if not several and stands_aside(prog) else work(argv)
    except Terminated as stop:
        return stop.status
    except KeyboardInterrupt:
        return 130
    except Exception as error:
        debug = "--debug" in argv
        if debug:
            _keep_traceback(error)
        if not _is_users(error):
            raise
        if debug:
            traceback.print_exception(error)
        line = " ".join(str(error).split()) or type(error).__name__
        print(f"{prog}: error: {line}", file=sys.stderr)
        return USAGE_ERROR


def _is_users(error: Exception) -> bool:
    """Whether the message is written for the user. Other errors are ours: they keep a traceback."""
    from fastimae.engine.checkpoint import CheckpointError
    from fastimae.engine.metrics import NonFiniteLoss
    from fastimae.loaders.errors import DataError

    kinds = (UsageError, ConfigError, FolderError, OSError, CheckpointError, NonFiniteLoss)
    return isinstance(error, (*kinds, DataError))


def _keep_traceback(error: Exception) -> None:
    """In the folder that was being written to when it happened."""
    folder: Path | None = getattr(error, "output_dir", None)  # see fastimae.engine.claim
    if folder is not None:
        with contextlib.suppress(OSError):
            folder.mkdir(parents=True, exist_ok=True)  # where it was made in vain, it was removed
            with (folder / "debug.log").open("a") as file:
                traceback.print_exception(error, file=file)


def _flattened(box: str) -> str:
    """tyro's framed error as one line: without frame, title and pointer to the help."""
    lines = [line.strip("│╭╮╰╯ ") for line in box.splitlines()]
    _, *words = [line for line in lines if line.strip("─-")] or [""]
    end = next(
        (i for i, line in enumerate(words) if line.startswith(("For full help", "Argument help"))),
        None,
    )
    line = " ".join(" ".join(words[:end]).split())
    return _UNFIT.sub(_in_short, line)


def _in_short(unfit: re.Match) -> str:
    """Without what tyro tried, and None, which nobody means by a wrong value."""
    flag, types, values = unfit.groups()
    wanted = types.removeprefix("{None}|").removeprefix("{").removesuffix("}")
    return f"{flag} takes {wanted}, not {' '.join(_QUOTED.findall(values)) or 'nothing'}"


class _TqdmHandler(logging.Handler):
    """Writes log lines above a progress bar instead of through it."""

    def emit(self, record: logging.LogRecord) -> None:
        tqdm.write(self.format(record), file=sys.stderr)


def _log_through_tqdm() -> None:
    log.setLevel(logging.INFO)
    log.propagate = False
    log.handlers = [_TqdmHandler()]
