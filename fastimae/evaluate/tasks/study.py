"""fastimae-eval study: pre-train and evaluate the models that a file lists; a table and a plot.

Each pre-training and each evaluation is a run of its own; its command is logged before it starts. A
run that is done is skipped, one that was stopped resumes, so the study's command can be repeated
until the table is full.
"""

from __future__ import annotations

import shlex
import shutil
from collections.abc import Sequence

from fastimae.engine.output_folders import claim_folders
from fastimae.engine.run_file import to_yaml
from fastimae.evaluate.options.study import StudyOptions
from fastimae.evaluate.pages.tables import markdown
from fastimae.evaluate.result_files import check_own
from fastimae.evaluate.results import Results
from fastimae.evaluate.studies.commands import Commands
from fastimae.evaluate.studies.file import read_study, unknown_names
from fastimae.evaluate.studies.plot import draw
from fastimae.evaluate.studies.runs import StudyRun, run_once, state
from fastimae.evaluate.studies.shipped import find_study
from fastimae.evaluate.studies.table import rows, table
from fastimae.folders import write_text
from fastimae.loaders.errors import DataError
from fastimae.log import log
from fastimae.settings import ConfigError

TABLE, PICTURE, COPY = "study.md", "study.png", "study.yaml"


def run(options: StudyOptions) -> None:
    """Run what is missing; write results.json, study.md, study.png and study.yaml."""
    options.check()
    study = read_study(find_study(options.study), options.set)
    commands = Commands(study, options)
    runs = commands.runs()
    states = check(commands, runs)
    if options.dry_run:
        print(listing(runs, states))
        return
    check_own(options.output_dir, "study")
    with claim_folders(options.output_dir):
        _run(commands, runs)


def check(commands: Commands, runs: Sequence[StudyRun]) -> list[str]:
    """Return the state of each run. Raises the errors that the flags or images of any would cause.

    Called before the first run, as the last one starts days later.
    """
    if names := unknown_names(commands.study, [cell.row for cell in commands.cells]):
        log.warning("the study has no %s, of which the paper has numbers", ", ".join(names))
    if (launcher := commands.launcher) and not shutil.which(launcher[0]):
        raise ConfigError(f"--launcher {launcher[0]}: there is no such program")
    for flag in ("ffcv", "data_path"):
        path = getattr(commands.options, flag)
        if path and not path.exists():
            raise DataError(f"--{flag} {path}: there is no such file or folder")
    for cell in commands.cells:
        if cell.checkpoint and not cell.checkpoint.is_file():
            keys = ("models", cell.model, "checkpoint")
            raise commands.study.content.error(f"there is no file {cell.checkpoint}", *keys)
    states = [state(each) for each in runs]
    for each, how_far in zip(runs, states, strict=True):
        if how_far != "done":
            each.check()
    return states


def listing(runs: Sequence[StudyRun], states: Sequence[str]) -> str:
    """Return a line for each run: how far it is, its name, its command."""
    width = max(len(each.name) for each in runs)
    lines = [
        f"{how_far:7}  {each.name:{width}}  {shlex.join(each.words)}"
        for each, how_far in zip(runs, states, strict=True)
    ]
    return "\n".join([*lines, f"{states.count('done')} of {len(runs)} are done"])


def _run(commands: Commands, runs: Sequence[StudyRun]) -> None:
    for each in runs:
        if not run_once(each):
            log.warning("stopped in %s: the same command resumes from there", each.folder)
            break
    study, options = commands.study, commands.options
    found = rows(study, commands)
    numbers = table(study, found)
    results = Results(options.output_dir, "study", options)
    conditions = [commands.conditions(), *filter(None, [study.conditions])]
    draw(study, found, conditions, results.picture(PICTURE))
    text = "\n\n".join([*filter(None, [study.about]), markdown(numbers), *conditions])
    write_text(results.folder / TABLE, text + "\n")
    write_text(results.folder / COPY, to_yaml(study.content.all))
    results.save({"about": study.about, "table": numbers, "conditions": conditions})
    print(text)
