"""Probes in files: ours, which name their encoder's file, and MAE's linear ones, which hold it."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from fastimae.engine.checkpoint import load_checkpoint
from fastimae.engine.checkpoint_file import WEIGHTS, CheckpointError, args_in
from fastimae.engine.resume import ATTENTIVE_PROBE, LINEAR_PROBE, kind_of
from fastimae.evaluate.features import load_encoder, resolve_layer, resolve_pool
from fastimae.evaluate.labels.saved_probe import saved_probe
from fastimae.evaluate.options.base import Kept
from fastimae.evaluate.origin import origin_of
from fastimae.evaluate.robustness.given import naming
from fastimae.interop.finetuned import HEAD, classifies_mean, is_probe
from fastimae.interop.open_checkpoint import open_checkpoint
from fastimae.interop.options import ModelOptions
from fastimae.log import log, quietly
from fastimae.models import MaskedAutoencoder
from fastimae.settings import Seeded

Size = tuple[int, int] | None


class Probe(NamedTuple):
    """A probe and its encoder."""

    file: Path
    """That of the encoder."""
    kind: str
    """LINEAR_PROBE or ATTENTIVE_PROBE."""
    encoder: MaskedAutoencoder
    head: nn.Sequential
    """Features -> logits [B, K]."""
    classes: int
    """K."""
    args: Mapping[str, Any]
    """Settings of the probe's training; those in the file, if it is another program's."""
    pool: Kept
    """What of the encoder's tokens it is of: see `features`."""
    layer: int
    """The block whose latents these are."""
    origin: dict[str, Any]
    """Of the encoder: see `origin_of`."""


def open_probe_file(
    path: Path, encoder: Path | None, of_model: Mapping[str, Any], size: Size
) -> Probe | None:
    """Load a probe and its encoder; None if the file is no probe.

    encoder: --checkpoint. of_model: the user's flags for the model, as `load_model` takes them.
    size: that of the images, (height, width), if it is not that of the training. Raises
    CheckpointError if the encoder is not found, or the file has other weights than a probe.
    """
    if path.is_file() and path.suffix != ".safetensors":
        content = load_checkpoint(path, mmap=True)
        weights = content.get("model")
        if isinstance(weights, dict) and kind_of(weights) in (LINEAR_PROBE, ATTENTIVE_PROBE):
            return _ours(path, content, encoder, of_model, size)
    of_file = {"use_ema": of_model.get("use_ema", False), "hints": of_model["hints"]}
    with quietly():
        checkpoint = open_checkpoint(path, **of_file)
    return _maes(path, checkpoint.weights, of_model, size) if is_probe(checkpoint.weights) else None


def _ours(
    path: Path,
    content: Mapping[str, Any],
    given: Path | None,
    of_model: Mapping[str, Any],
    size: Size,
) -> Probe:
    args = args_in(content)
    flags = {**_flags_in(args), **{k: v for k, v in of_model.items() if v}}
    if size:
        flags["img_size"] = size
    file, model, origin = _find_encoder(path, args, given, flags)
    weights = content["model"]
    kind = kind_of(weights)
    log.info("%s: %s of %s", path, kind, file)
    pool = "tokens" if kind == ATTENTIVE_PROBE else resolve_pool(model, args.get("pool"))
    layer = resolve_layer(model, args.get("layer"))
    about = {"args": args, "pool": pool, "layer": layer, "origin": origin}
    return _probe(path, weights, file=file, kind=kind, encoder=model, **about)


def _probe(path: Path, weights: Mapping[str, Tensor], **about: Any) -> Probe:
    """Rebuild the probe of these weights. about: the other fields of `Probe`."""
    usual = about["encoder"].blocks[0].attn.num_heads
    try:
        head = saved_probe(weights, about["args"].get("probe_heads") or usual)
    except ValueError as error:
        raise CheckpointError(f"--classifier {path} {error}") from error
    return Probe(head=head, classes=head[-1].out_features, **about)


def _flags_in(args: Mapping[str, Any]) -> dict[str, Any]:
    """Return arguments of `load_model` as the probe's training had them."""
    names = {field.name for field in dataclasses.fields(ModelOptions)} & args.keys()
    known = {name: args[name] for name in names}
    tuples = {name: tuple(value) for name, value in known.items() if isinstance(value, list)}
    return {**ModelOptions(**{**known, **tuples}).of_model(), "in_chans": args.get("in_chans")}


def _find_encoder(
    path: Path, args: Mapping[str, Any], given: Path | None, flags: Mapping[str, Any]
) -> tuple[Path, MaskedAutoencoder, dict[str, Any]]:
    """Load the encoder whose digest is the probe's from the first of the likely places.

    These are --checkpoint, the recorded path, and that name in the probe's folder or above it, for
    folders of runs that have moved. Raises CheckpointError.
    """
    recorded = Path(str(args.get("checkpoint")))
    beside = (path.resolve().parent / recorded.name, path.resolve().parents[1] / recorded.name)
    places = dict.fromkeys(filter(None, (given, recorded, *beside)))
    fresh = {"random_init": bool(args.get("random_init")), "seed": args.get("seed", Seeded.seed)}
    others = []
    for place in filter(Path.exists, places):
        if place.resolve() == path.resolve():
            continue
        whose = "--checkpoint" if place == given else f"--classifier {path}: its encoder"
        with naming(f"{whose} {place}", place):
            model = load_encoder(place, torch.device("cpu"), **fresh, **flags)
        origin = origin_of(place, model)
        if args.get(WEIGHTS) in (None, origin[WEIGHTS]):
            return place, model, origin
        others.append(place)
    found = f", and {' and '.join(map(str, others))} has other weights" if others else ""
    raise CheckpointError(
        f"--classifier {path} is a probe of the encoder {recorded}, which is not there{found}: "
        "give the encoder's file as --checkpoint"
    )


def _maes(
    path: Path, weights: Mapping[str, Tensor], of_model: Mapping[str, Any], size: Size
) -> Probe:
    """Open a file of MAE's linear probing: the encoder, and the layers of the probe as `head`."""
    flags = {**of_model, **({"img_size": size} if size else {})}
    model = load_encoder(path, torch.device("cpu"), **flags)
    layers = {k.removeprefix(HEAD): v for k, v in weights.items() if k.startswith(HEAD)}
    pool: Kept = "avg" if classifies_mean(weights) else "cls"
    log.info("%s: a linear probe with its encoder", path)
    about = {"args": dict(model.args), "pool": pool, "layer": -1, "origin": origin_of(path, model)}
    return _probe(path, layers, file=path, kind=LINEAR_PROBE, encoder=model, **about)
