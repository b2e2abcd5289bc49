"""What must hold before a training with labels starts or resumes: where its files are, and of what.

The settings that a checkpoint holds say what must match: the weights that the run began from
(WEIGHTS), the names of its classes (CLASSES), the part of the images it learned from (LABELLED),
and which features a probe is of, and how it attends to them (PROBED).
A task that has no such setting leaves it out, and is not asked for it.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fastimae.engine.checkpoint import find_resume, load_checkpoint
from fastimae.engine.checkpoint_file import LABELLED, PROBED, WEIGHTS, CheckpointError, args_in
from fastimae.engine.resume import check_kind
from fastimae.evaluate.labels.class_names import check_same_classes
from fastimae.evaluate.origin import check_same_weights
from fastimae.evaluate.pages.tables import format_value
from fastimae.loaders.order.choice import flags_of_choice
from fastimae.loaders.settings import ChoiceSettings
from fastimae.settings import ConfigError


def check_apart(checkpoint: Path, folder: Path) -> None:
    """Raise ConfigError if --checkpoint is in the output folder of this run.

    Training would archive the files of an earlier run there, and the checkpoint with them.
    """
    if checkpoint.resolve().parent == folder.resolve() and checkpoint.match("checkpoint-*.pth"):
        raise ConfigError(f"--output_dir {folder} holds --checkpoint {checkpoint}: choose another")


def check_resume(resume: str, folder: Path, kind: str, origin: Mapping[str, Any]) -> None:
    """Raise CheckpointError if --resume names no run of this kind, or one on other weights.

    To be called before images are opened. folder: of the run. kind: see `resume.kind_of`. origin:
    of the encoder, see `origin_of`.
    """
    if path := find_resume(resume, folder):
        content = load_checkpoint(path, mmap=True)
        check_kind(content, kind, path, "--checkpoint")
        check_same_weights(path, content, {WEIGHTS: origin[WEIGHTS]})


def check_same_run(path: Path, content: Mapping[str, Any], now: Mapping[str, Any]) -> None:
    """Raise CheckpointError or DataError if the run to resume had other weights, classes or labels.

    Or, if it is a probe, other features or heads. content: of the file `path`. now: the settings of
    the run that would resume it.
    """
    check_same_weights(path, content, now)
    check_same_classes(path, content, now)
    _check_same_labels(path, content, now)
    _check_same_probe(path, args_in(content).get(PROBED), now.get(PROBED) or {})


def _check_same_probe(path: Path, before: Any, now: Mapping[str, Any]) -> None:
    """Raise CheckpointError unless the probe to resume is of the same features, with equal heads.

    before, now: see PROBED; earlier versions recorded none.
    """
    known = now.keys() & before.keys() if isinstance(before, Mapping) else ()
    changed = [name for name in now if name in known and before[name] != now[name]]
    if changed:
        was = ", ".join(f"--{name} {format_value(before[name])}" for name in changed)
        others = ", ".join(format_value(now[name]) for name in changed)
        raise CheckpointError(
            f"--resume {path} is a probe with {was}, this run's has {others}: give the same, or "
            "choose another --output_dir"
        )


def _check_same_labels(path: Path, content: Mapping[str, Any], now: Mapping[str, Any]) -> None:
    """Raise CheckpointError unless the run to resume learned from the same part of the images."""
    before = args_in(content)
    if before.get(LABELLED, "") != now.get(LABELLED, ""):
        raise CheckpointError(
            f"--resume {path} learned from {_part_in(before)}, and this run from {_part_in(now)}: "
            "give the same part of the same images, or choose another --output_dir"
        )


def _part_in(settings: Mapping[str, Any]) -> str:
    """Describe which labels a run with these settings learned from."""
    if settings.get("label_list"):
        return f"--label_list {settings['label_list']}"
    if settings.get("label_fraction"):
        seed = settings.get("seed")
        return f"--label_fraction {settings['label_fraction']:g} (--seed {seed})"
    given = {name: settings[name] for name in ("images", "images_from") if settings.get(name)}
    choice = flags_of_choice(ChoiceSettings(**given))
    return f"{choice} (--seed {settings.get('seed')})" if choice else "all labels"
