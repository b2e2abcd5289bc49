"""Going on from a checkpoint: whether it is one of such a run, and what has changed since."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import Tensor

from fastimae.engine.checkpoint import CheckpointError, listed, model_weights
from fastimae.engine.files import EFFECTIVE_BATCH, NO_FLAGS, PROCESSES, RUN, args_in
from fastimae.log import log
from fastimae.settings import free_settings

if TYPE_CHECKING:
    from fastimae.engine.trainer import Trainer

# Those that say which images a number is of, and what these show.
_PLACES = {"ffcv", "data_path", "val"}
_IMAGES = {"label_field", "image_field", "value_range", "max_pixels", "crop", *_PLACES}

_OTHER_SETTINGS = "resumed with other settings than before"

# What of a step may change though no flag does.
_OF_A_STEP = {PROCESSES: "processes", EFFECTIVE_BATCH: "effective batch"}

# What a loader's state says of the data: see `EpochSteps.state`, and `Validated` of the last.
_DATA = ("samples", "data", "val")

EXTRA = "objective"
"""What a checkpoint holds of an objective beside its student, where there is something."""

_NO_ENCODER = "a linear probe"
_UNKNOWN = "a model of another kind"
_CLASSIFIER, _ENCODER = "a classifier", "an encoder alone"
_NO_DECODER = (_CLASSIFIER, _ENCODER)
# What a state dict is of, by a name that it has; the first that fits.
_KINDS = (
    ("decoder_embed1.weight", "an i-MAE"),
    ("mask_token", "a MAE"),
    ("head.weight", _CLASSIFIER),
    ("0.running_mean", _NO_ENCODER),
    ("cls_token", _ENCODER),
)


def go_on(trainer: Trainer, content: dict[str, Any], path: Path, weights_flag: str) -> None:
    """Take the trainer to where a checkpoint was saved, and say so.

    content: of `path`. weights_flag: what starts a run from a file's weights. Raises
    CheckpointError, in one line, where the file is not of such a run or the run is past its
    --epochs; DataError as loaders do.
    """
    trainer.load_state_dict(content, path, weights_flag)
    before = args_in(content)
    if changed := _changes(before, trainer.args):
        told = "a finished run keeps its settings" if trainer.finished else _OTHER_SETTINGS
        if trainer.world.is_main:
            log.warning("%s: %s", told, ", ".join(changed))
    trainer.args.update({RUN: before[RUN]} if RUN in before else {})
    if trainer.finished:
        log.info("%s is of a finished run: a larger --epochs goes on from it", path)
    else:
        log.info("resumed %s: epoch %d, step %d", path, trainer.epoch, trainer.update)


def check_resumable(
    content: Mapping[str, Any],
    own: Mapping[str, Any],
    path: Path,
    weights_flag: str,
) -> None:
    """Raise CheckpointError that says what `content` is, unless it is of a run like this one.

    own: the state of this run; see `Trainer.state_dict`.
    """
    weights, ours = model_weights(content, path), own["model"]
    found, wanted = _kind(weights), _kind(ours)
    missing = sorted(own.keys() - content.keys() - {EXTRA})
    to_start = f"{weights_flag} {path} starts from its weights"
    if found in _NO_DECODER and wanted not in _NO_DECODER:
        to_start = f"{weights_flag} {path} --allow_partial starts its encoder from it"
    hint = {
        _NO_ENCODER: "give the checkpoint-last.pth of such a run",
        _UNKNOWN: f"if it is a vision transformer, {to_start}",
    }.get(found, to_start)
    if found != wanted:
        raise CheckpointError(f"--resume {path} is {found}, and this run trains {wanted}: {hint}")
    if missing:
        raise CheckpointError(
            f"--resume {path} is {found}{_origin(content)} and not a run to go on with, it has no "
            f"{', '.join(missing)}: {hint}"
        )
    if different := sorted(ours.keys() ^ weights.keys()):
        raise CheckpointError(
            f"--resume {path} is {found} with other parts than this run's "
            f"({len(different)} names, such as {different[0]}): give the flags of before"
        )
    before, now = (args_in(state).get("opt") for state in (content, own))
    if before and now and before != now:
        raise CheckpointError(
            f"--resume {path} was trained with --opt {before}: --opt {now} cannot go on from that"
        )


def check_same_extra(content: Mapping[str, Any], own: Mapping[str, Tensor], path: Path) -> None:
    """Raise CheckpointError unless `content` has what this run's objective keeps beside its
    student. own: see `Objective.extra_state`."""
    found = content.get(EXTRA, {})
    missing, unexpected = sorted(own.keys() - found.keys()), sorted(found.keys() - own.keys())
    resized = [name for name in own.keys() & found.keys() if own[name].shape != found[name].shape]
    if missing or unexpected or resized:
        raise CheckpointError(
            f"--resume {path} is of another objective: missing keys: {listed(missing)}; "
            f"unexpected keys: {listed(unexpected)}; of another size: {listed(sorted(resized))}: "
            "give the flags of before"
        )


def loader_state(content: Mapping[str, Any]) -> dict[str, Any]:
    """The loader's, with how many micro steps made an optimizer step, which earlier versions noted
    among the settings only."""
    return {"accum_iter": args_in(content).get("accum_iter"), **content["loader"]}


def check_epochs(path: Path, epoch: int, update: int, epochs: int) -> None:
    """Raise CheckpointError where a run that stands there has done more than `epochs`."""
    if epoch > epochs or (epoch == epochs and update):
        raise CheckpointError(
            f"--resume {path} is past --epochs {epochs}, at step {update} of epoch {epoch}: "
            "make --epochs larger, or resume an earlier checkpoint"
        )


def check_result_stands(trainer: Trainer, content: Mapping[str, Any], path: Path) -> None:
    """Raise CheckpointError where a finished run, whose numbers are in its checkpoint, was given
    other images: the numbers would be given out as theirs. The same ones may lie elsewhere, as far
    as the checkpoint tells which they are."""
    before, now = loader_state(content), trainer.loader.state_dict()
    told = _IMAGES - _PLACES if before.keys() >= set(_DATA) else _IMAGES
    images = {name: value for name, value in trainer.args.items() if name in told}
    changed = _changes(args_in(content), images)
    if any(before.get(name, now.get(name)) != now.get(name) for name in _DATA):
        changed = changed or ["the files hold others than before"]
    if trainer.finished and changed:
        raise CheckpointError(
            f"--resume {path} is of a finished run: its numbers are not of these images "
            f"({', '.join(changed)}); make --epochs larger, or choose another --output_dir"
        )


def other_settings(before: Mapping[str, Any], now: Mapping[str, Any]) -> dict[str, Any]:
    """The settings of before that a run would not be the same without, where they were others."""
    told = before.keys() & now.keys() - free_settings() - NO_FLAGS
    return {name: before[name] for name in sorted(told) if before[name] != now[name]}


def _kind(names: Collection[str]) -> str:
    return next((kind for name, kind in _KINDS if name in names), _UNKNOWN)


def _origin(content: Mapping[str, Any]) -> str:
    """Who wrote a checkpoint, as far as it tells."""
    if "fastimae_format" in content:
        return " of FastIMAE"
    return "" if isinstance(content.get("args", {}), dict) else " of MAE's code"


def _changes(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    different = other_settings(before, now)
    changed = [f"--{name} {value} -> {now[name]}" for name, value in different.items()]
    told = before.keys() & now.keys()  # earlier versions did not note what a step is
    of_step = [name for name in _OF_A_STEP if name in told and before[name] != now[name]]
    changed += [f"{_OF_A_STEP[name]} {before[name]} -> {now[name]}" for name in of_step]
    if EFFECTIVE_BATCH in of_step and now.get("lr") is None:
        changed.append("and with that the rate, --blr x effective batch / 256")
    return changed
