"""Resuming a trainer: whether a checkpoint is of such a run, and which settings have changed."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import Tensor

from fastimae.engine.checkpoint import (
    CheckpointError,
    listed,
    load_weights,
    model_weights,
)
from fastimae.engine.checkpoint_file import (
    EFFECTIVE_BATCH,
    PROCESSES,
    RUN,
    args_in,
    changed_settings,
)
from fastimae.engine.sharded import shard_like
from fastimae.log import log
from fastimae.settings import lacks_heads

if TYPE_CHECKING:
    from fastimae.engine.trainer import Trainer
    from fastimae.objectives.base import Objective

# Settings that decide which images results are measured on, and how these are read.
_PATHS = {"ffcv", "data_path", "val"}
_IMAGES = {"label_field", "image_field", "value_range", "max_pixels", "crop", *_PATHS}

_OTHER_SETTINGS = "resumed with other settings than before"

# Sizes of a step that may change although no flag does.
_STEP_SIZES = {PROCESSES: "processes", EFFECTIVE_BATCH: "effective batch"}

# What identifies the data in a loader's state: see `EpochSteps.state`; "val": `ValidatingLoader`.
_DATA = ("samples", "data", "val")

STATE = frozenset(
    (
        "model",
        "optimizer",
        "scaler",
        "epoch",
        "step",
        "args",
        "loader",
        "metrics",
        "fastimae_format",
    )
)
"""Keys of a checkpoint that a run resumes from."""
EXTRA = "objective"
"""Key of a checkpoint: the state of an objective apart from its student, if there is any."""

LINEAR_PROBE, ATTENTIVE_PROBE = "a linear probe", "an attentive probe"
CLASSIFIER = "a classifier"
SEGMENTER, DETECTOR = "a segmentation model", "a detector"
_UNKNOWN, _ENCODER = "a model of another kind", "an encoder alone"
_IMAE, _MAE = "an i-MAE", "a MAE"
_NO_DECODER = (CLASSIFIER, _ENCODER, SEGMENTER, DETECTOR)
# Kinds of models by a name in their state dict; the first match counts.
_KINDS = (
    ("decoder_embed1.weight", _IMAE),
    ("mask_token", _MAE),
    ("head.weight", CLASSIFIER),
    ("head.classify.weight", SEGMENTER),
    ("rpn.head.cls_logits.weight", DETECTOR),
    ("1.query", ATTENTIVE_PROBE),
    ("0.running_mean", LINEAR_PROBE),
    ("cls_token", _ENCODER),
)


def resume_trainer(
    trainer: Trainer, content: dict[str, Any], path: Path, weights_flag: str
) -> None:
    """Restore the trainer from a checkpoint, and log that and which settings have changed.

    content: of `path`. weights_flag: the flag that starts a run from mere weights. Raises
    CheckpointError, in one line, if the file is of another kind of run or the run is past --epochs;
    DataError as loaders do.
    """
    trainer.load_state_dict(content, path, weights_flag)
    before = args_in(content)
    if changed := _changes(before, trainer.args):
        message = "a finished run keeps its settings" if trainer.finished else _OTHER_SETTINGS
        if trainer.world.is_main:
            log.warning("%s: %s", message, ", ".join(changed))
    trainer.args.update({RUN: before[RUN]} if RUN in before else {})
    if trainer.finished:
        log.info("%s is of a finished run: a larger --epochs continues it", path)
    else:
        log.info("resumed %s: epoch %d, step %d", path, trainer.epoch, trainer.update)


def load_models(
    objective: Objective,
    content: Mapping[str, Any],
    args: Mapping[str, Any],
    path: Path,
    weights_flag: str,
) -> None:
    """Copy a checkpoint's weights to the objective, which may be on the meta device: a mere check.

    args: the settings of this run. Raises CheckpointError, saying what `content` is, unless it is
    of a run like this one.
    """
    ours, extra = objective.student.state_dict(), objective.extra_state()
    check_kind(content, kind_of(ours, args), path, weights_flag)
    _check_same_names(content, ours, args, path)
    check_same_extra(content, extra, path)
    load_weights(
        objective.student,
        content["model"],
        path,
        size_hint=": use the flags it was trained with",
    )
    for name, tensor in extra.items():
        tensor.copy_(shard_like(content[EXTRA][name], tensor))


def check_kind(content: Mapping[str, Any], wanted: str, path: Path, weights_flag: str) -> None:
    """Raise CheckpointError, saying what `content` is, unless it is of a run that trains `wanted`.

    wanted: see `kind_of`. weights_flag: the flag that starts a run from mere weights.
    """
    found = kind_of(weights_in(content, path), args_in(content))
    missing = sorted(STATE - content.keys())
    to_start = f"{weights_flag} {path} starts from its weights"
    if found in _NO_DECODER and wanted not in _NO_DECODER:
        # A classifier of the mean has no norm.
        partial = " --allow_partial" * (found == CLASSIFIER)
        to_start = f"{weights_flag} {path}{partial} starts its encoder from it"
    hint = {
        LINEAR_PROBE: "give the checkpoint-last.pth of such a run",
        ATTENTIVE_PROBE: "give the checkpoint-last.pth of such a run",
        _UNKNOWN: f"if it is a vision transformer, {to_start}",
    }.get(found, to_start)
    if found != wanted:
        raise CheckpointError(f"--resume {path} is {found}, and this run trains {wanted}: {hint}")
    if missing:
        raise CheckpointError(
            f"--resume {path} is {found}{_origin(content)} and not a run to resume, it has no "
            f"{', '.join(missing)}: {hint}"
        )


def weights_in(content: Mapping[str, Any], path: Path) -> dict[str, Tensor]:
    """Return all weights of the model in a checkpoint of ours, heads on an encoder included.

    content: of `path`. Of another program's file, those of its transformer: see `find_weights`.
    Raises CheckpointError if there are none.
    """
    own = "fastimae_format" in content and isinstance(content.get("model"), dict)
    return dict(content["model"]) if own else model_weights(content, path)


def _check_same_names(
    content: Mapping[str, Any], ours: Mapping[str, Tensor], args: Mapping[str, Any], path: Path
) -> None:
    weights = weights_in(content, path)
    if different := sorted(ours.keys() ^ weights.keys()):
        raise CheckpointError(
            f"--resume {path} is {kind_of(weights)} with other parts than this run's "
            f"({len(different)} names, such as {different[0]}): use the flags it was trained with"
        )
    before, now = args_in(content).get("opt"), args.get("opt")
    if before and now and before != now:
        raise CheckpointError(
            f"--resume {path} was trained with --opt {before}: --opt {now} cannot resume that"
        )


def check_same_extra(content: Mapping[str, Any], own: Mapping[str, Tensor], path: Path) -> None:
    """Raise CheckpointError unless `content` has the objective's state apart from its student.

    own: that state in this run, see `Objective.extra_state`.
    """
    found = content.get(EXTRA, {})
    missing, unexpected = sorted(own.keys() - found.keys()), sorted(found.keys() - own.keys())
    resized = [name for name in own.keys() & found.keys() if own[name].shape != found[name].shape]
    if missing or unexpected or resized:
        raise CheckpointError(
            f"--resume {path} is of another objective: missing keys: {listed(missing)}; "
            f"unexpected keys: {listed(unexpected)}; of another size: {listed(sorted(resized))}: "
            "use the flags it was trained with"
        )


def loader_state(content: Mapping[str, Any]) -> dict[str, Any]:
    """Return the loader's state with its "accum_iter", which earlier versions saved only among the
    settings."""
    return {"accum_iter": args_in(content).get("accum_iter"), **content["loader"]}


def check_epochs(path: Path, epoch: int, update: int, epochs: int) -> None:
    """Raise CheckpointError if a run at this point has already trained more than `epochs`."""
    if epoch > epochs or (epoch == epochs and update):
        raise CheckpointError(
            f"--resume {path} is past --epochs {epochs}, at step {update} of epoch {epoch}: "
            "make --epochs larger, or resume an earlier checkpoint"
        )


def check_results_still_apply(trainer: Trainer, content: Mapping[str, Any], path: Path) -> None:
    """Raise CheckpointError if a finished run was given other images than its results are of.

    Its results are in its checkpoint, and would be reported for the wrong images. If the checkpoint
    identifies the images by their content, they may have moved to other paths.
    """
    before, now = loader_state(content), trainer.loader.state_dict()
    names = _IMAGES - _PATHS if before.keys() >= set(_DATA) else _IMAGES
    images = {name: value for name, value in trainer.args.items() if name in names}
    changed = _changes(args_in(content), images)
    if any(before.get(name, now.get(name)) != now.get(name) for name in _DATA):
        changed = changed or ["the files hold other images"]
    if trainer.finished and changed:
        raise CheckpointError(
            f"--resume {path} is of a finished run: its results are not of these images "
            f"({', '.join(changed)}); make --epochs larger, or choose another --output_dir"
        )


def kind_of(names: Collection[str], args: Mapping[str, Any] | None = None) -> str:
    """Describe a model by the names in its state dict, and the settings of its run if known.

    An i-MAE without heads has the weights of a MAE: only its settings tell them apart.
    """
    kind = next((kind for name, kind in _KINDS if name in names), _UNKNOWN)
    return f"{_IMAE} without heads" if kind == _MAE and lacks_heads(args or {}) else kind


def _origin(content: Mapping[str, Any]) -> str:
    """Return " of PROGRAM" for the program that wrote a checkpoint, "" if unknown."""
    if "fastimae_format" in content:
        return " of FastIMAE"
    return "" if isinstance(content.get("args", {}), dict) else " of MAE's code"


def _changes(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    different = changed_settings(before, now)
    changed = [f"--{name} {value} -> {now[name]}" for name, value in different.items()]
    both = before.keys() & now.keys()  # earlier versions did not save the sizes of a step
    sizes = [name for name in _STEP_SIZES if name in both and before[name] != now[name]]
    changed += [f"{_STEP_SIZES[name]} {before[name]} -> {now[name]}" for name in sizes]
    if EFFECTIVE_BATCH in sizes and now.get("lr") is None:
        changed.append("and with that the rate, --blr x effective batch / 256")
    return changed
