"""Command lines: parse them into settings, and turn errors into a line and an exit status."""

from __future__ import annotations

import argparse
import contextlib
import functools
import io
import logging
import re
import sys
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import tyro

from fastimae import __version__
from fastimae.declarations import declared
from fastimae.engine.checkpoint_file import CheckpointError
from fastimae.engine.command_line import running_command
from fastimae.engine.launcher import is_surplus_process
from fastimae.engine.run_file import to_yaml
from fastimae.engine.signals import Terminated
from fastimae.flags import flags_of, given_in, repeated
from fastimae.folders import FolderError
from fastimae.help import FULL, Recipes, help_asked, help_page, version_asked
from fastimae.loaders.errors import DataError
from fastimae.log import log
from fastimae.paths import expand_paths
from fastimae.progress import LogHandler
from fastimae.recipes import AUGMENTATIONS, RECIPES
from fastimae.settings import ConfigError
from fastimae.streams import closed_early_is_fine
from fastimae.wording import as_command, did_you_mean

if TYPE_CHECKING:
    from fastimae.config import TrainConfig

Options = TypeVar("Options")
Work = Callable[[Sequence[str]], int]
Command = Callable[..., int]

USAGE_ERROR = 2


class UsageError(Exception):
    """An invalid command line, described in one line."""


_USERS = (UsageError, ConfigError, FolderError, OSError, CheckpointError, DataError)
"""Errors whose message is for the user. So is that of NonFiniteLoss, whose module imports torch."""


def parse(
    prog: str,
    options: type[Options],
    argv: Sequence[str],
    default: Options | None = None,
    recipes: Recipes | None = None,
) -> Options:
    """Parse flags into options: each at most once, with underscores or hyphens.

    recipes: to list in the help, which --help prints before it exits. Paths are expanded, see
    `fastimae.paths`. Raises UsageError or ConfigError.
    """
    if flag := help_asked(argv):
        print(help_page(prog, options, default, recipes, full=flag == FULL), flush=True)
        raise SystemExit(0)
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
        from fastimae.mistakes import mistakes  # only an error needs it

        found = mistakes(argv, options, default, recipes or ())
        problem = "; ".join(found) or _flattened(message.getvalue())
        raise UsageError(f"{problem} ({_reference(prog, problem, options)})") from None
    if problem := repeated(argv, flags_of(options)) or _empty_path(argv, options):
        raise UsageError(f"{problem} ({prog} --help)")
    return expand_paths(parsed)


def _empty_path(argv: Sequence[str], options: type) -> str:
    if not any(word == "" or word.endswith("=") for word in argv):
        return ""
    from fastimae.mistakes import empty_path

    return empty_path(argv, options)


def _reference(prog: str, problem: str, options: type) -> str:
    """Return the command that describes the flags that a message names."""
    named = set(re.findall(r"--(\w+)", problem))
    rare = any(flag.expert and flag.name in named for flag in declared(options))
    return f"{prog} --help-all" if rare else f"{prog} --help"


def peek(argv: Sequence[str], *names: str) -> dict[str, str]:
    """Return the values of the flags called `names`, which decide the defaults of others.

    Empty if one lacks its value: the full parser reports that.
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


def recipe_called(name: str, recipes: Recipes) -> dict[str, Any]:
    """Return the settings of the recipe of that name. Raises ConfigError."""
    if name not in recipes:
        near = did_you_mean(name, recipes)
        known = f" those in --help{near}" if near else f": {', '.join(recipes)}"
        raise ConfigError(f"--recipe {name} is not one of{known}")
    return recipes[name]()


def parse_training(prog: str, argv: Sequence[str]) -> TrainConfig | None:
    """Return the settings of a training run: flags override --config, which overrides --recipe.

    With --print_config, prints them as YAML and returns None. Raises UsageError or ConfigError.
    """
    from fastimae.config import (  # other commands start faster without it
        TrainConfig,
        config_with,
        flatten,
        run_settings,
        updated,
    )
    from fastimae.config_file import config_file

    first = peek(argv, "config", "recipe", "objective", "aug")
    settings = config_file(first)
    recipe = first.get("recipe") or settings.get("recipe")
    with settings.naming("recipe", first):
        of_recipe = recipe_called(str(recipe), RECIPES) if recipe else {}
    objective = first.get("objective") or (of_recipe | settings).get("objective")
    with settings.naming("objective", first):
        default = config_with(str(objective)) if objective else TrainConfig()
    default = updated(default, of_recipe, lambda _: f"recipe {recipe}")
    overridden = {"aug": None} if "aug" in first else {}
    default = updated(default, {**settings, **overridden}, settings.place)
    default = updated(default, AUGMENTATIONS.get(first.get("aug"), {}), lambda _: "--aug")
    config = parse(prog, type(default), argv, default, RECIPES)
    given = given_in(argv, flags_of(type(config)))
    config = config.without_idle(of_recipe.keys() - given - settings.names())
    of_aug = AUGMENTATIONS.get(config.run.aug, {})
    places = dict.fromkeys(of_aug.keys() - given, f"--aug {config.run.aug}")
    config.check(places | settings.places(given))
    if config.run.print_config:
        print(to_yaml(run_settings(flatten(config))), end="", flush=True)
        return None
    return config


def command(prog: str, *, several: bool = False) -> Callable[[Work], Command]:
    """Turn a function of arguments into a command, which takes them from sys.argv by default.

    An error that the user can fix becomes one line on stderr and exit status 2. With --debug the
    traceback is shown, too, and saved as debug.log in the output folder.
    several: it may run in several processes; otherwise all but the first do nothing.
    """

    def decorate(work: Work) -> Command:
        @functools.wraps(work)
        def run(argv: Sequence[str] | None = None) -> int:
            words = sys.argv[1:] if argv is None else argv
            with closed_early_is_fine(), as_command(), running_command(prog, words):
                return _run_safely(prog, work, words, several)

        return run

    return decorate


def _run_safely(prog: str, work: Work, argv: Sequence[str], several: bool) -> int:
    _log_to_stderr()
    if version_asked(argv):
        print(f"fastimae {__version__}", flush=True)
        return 0
    try:
        status = 0 if not several and is_surplus_process(prog) else work(argv)
        sys.stdout.flush()  # here a full disk is an error of the command
        return status
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
    """Return whether the error is the user's to fix. Others are bugs: they keep a traceback."""
    if isinstance(error, _USERS):
        return True
    from fastimae.engine.metrics import NonFiniteLoss

    return isinstance(error, NonFiniteLoss)


def _keep_traceback(error: Exception) -> None:
    """Append the traceback to debug.log in the output folder that was in use."""
    folder: Path | None = getattr(error, "output_dir", None)  # see fastimae.engine.output_folders
    if folder is not None:
        with contextlib.suppress(OSError):
            folder.mkdir(parents=True, exist_ok=True)  # an empty new folder was removed
            with (folder / "debug.log").open("a") as file:
                traceback.print_exception(error, file=file)


def _flattened(box: str) -> str:
    """Return tyro's framed error as one line, without frame, title and pointer to the help.

    Only for a mistake that `mistakes` does not know.
    """
    lines = [line.strip("│╭╮╰╯ ") for line in box.splitlines()]
    _, *words = [line for line in lines if line.strip("─-")] or [""]
    end = next(
        (i for i, line in enumerate(words) if line.startswith(("For full help", "Argument help"))),
        None,
    )
    return " ".join(" ".join(words[:end]).split())


def _log_to_stderr() -> None:
    log.setLevel(logging.INFO)
    log.propagate = False
    log.handlers = [LogHandler()]
