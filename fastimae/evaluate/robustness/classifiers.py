"""Classifiers of all kinds behind one interface: pixels in, logits out, with the classes' names.

B = batch, H, W, C = height, width, channels, D = encoder width, K = classes.
"""

from __future__ import annotations

import dataclasses
import functools
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from fastimae.engine.checkpoint_file import WEIGHTS, CheckpointError
from fastimae.evaluate.candidates import NO_FLAGS, Candidate, names_of
from fastimae.evaluate.features import features, inference
from fastimae.evaluate.finetuning.classifier import (
    build_classifier,
    classes_of,
    load_classifier,
    load_head,
)
from fastimae.evaluate.labels.class_names import names_in
from fastimae.evaluate.options.robustness import ClassifierOptions
from fastimae.evaluate.origin import BEGUN, origin_of
from fastimae.evaluate.robustness.classes import imagenet
from fastimae.evaluate.robustness.given import check_folder, naming
from fastimae.evaluate.robustness.probes import Probe, open_probe_file
from fastimae.interop.finetuned import classifies_mean
from fastimae.kernels.checks import FULL_RANGE
from fastimae.loaders.errors import DataError
from fastimae.log import log
from fastimae.models import MaskedAutoencoder
from fastimae.settings import ConfigError, height_and_width
from fastimae.trained import crop_of, training_settings

FLAG = "--classifier"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Classifier:
    """A classifier that is tested."""

    candidate: Candidate
    """Its name and encoder, and the settings of the pre-training as far as they are known."""
    kind: str
    """What of the encoder was trained, in words."""
    names: tuple[str, ...]
    """The class of each output; "" for an output that has none."""
    logits: Callable[[Tensor], Tensor]
    """Of uint8 pixels [B, H, W, C] on the device: float32 [B, K]."""
    size: tuple[int, int]
    """Height and width of its images."""
    whole: bool
    """Whether they are resized whole, and not cropped, as in its training."""
    origin: Mapping[str, Any]
    """See `origin_of`; and, under BEGUN, the digest of the encoder that it was trained on."""

    @property
    def name(self) -> str:
        """Short and unique."""
        return self.candidate.name

    @property
    def channels(self) -> int:
        """Of its images."""
        return self.candidate.model.in_chans

    @property
    def view(self) -> tuple[tuple[int, int], int, bool]:
        """What its images look like: those of classifiers with the same view are decoded once."""
        return self.size, self.channels, self.whole


def load_classifiers(options: ClassifierOptions, device: torch.device) -> list[Classifier]:
    """Load all classifiers onto the device. Raises CheckpointError, ConfigError and DataError.

    options: flags that describe a model are for the first file; --input_size is for all.
    """
    paths = options.files()
    own, size = options.of_model(), options.input_size and height_and_width(options.input_size)
    loaded, encoders = [], []
    for number, (name, path) in enumerate(zip(names_of(paths), paths, strict=True)):
        of_model = own if number == 0 else {"hints": NO_FLAGS}
        of_model = {**of_model, "img_size": None}
        if path.is_dir():
            check_folder(FLAG, path)
        with naming(f"{FLAG} {path}", path):
            probe = open_probe_file(path, options.checkpoint, of_model, size)
            encoders += [probe.file] if probe else []
            load = functools.partial(_of_probe, probe) if probe else _fine_tuned
            loaded.append(load(name, path, device, options, of_model))
    if options.checkpoint and options.checkpoint not in encoders:
        raise ConfigError(
            f"--checkpoint {options.checkpoint} is the encoder of no probe here: drop it"
        )
    return loaded


def _of_probe(
    probe: Probe, name: str, path: Path, device: torch.device, options: ClassifierOptions, _: Any
) -> Classifier:
    model, head = _frozen(probe.encoder, device), _frozen(probe.head, device)

    @torch.no_grad()
    def logits(pixels_BHWC: Tensor) -> Tensor:
        rows = features(model, pixels_BHWC, probe.pool, options.precision, probe.layer)
        return head(rows)

    return Classifier(
        candidate=Candidate(name=name, path=path, model=model, args=dict(model.args)),
        kind=probe.kind,
        names=class_names(path, probe.args, probe.classes),
        logits=logits,
        size=model.img_size,
        whole=crop_of(model.args) == "none",
        origin={**probe.origin, BEGUN: probe.origin[WEIGHTS]},
    )


def _fine_tuned(
    name: str, path: Path, device: torch.device, options: ClassifierOptions, of_model: dict
) -> Classifier:
    of_model = {**of_model, "hints": of_model["hints"].without("input_size")}
    encoder, weights = load_classifier(path, flag=FLAG, **of_model)
    size = options.input_size and height_and_width(options.input_size)
    try:
        net = build_classifier(
            encoder, classes_of(weights), global_pool=classifies_mean(weights), img_size=size
        )
    except ValueError as error:
        raise CheckpointError(f"{FLAG} {path}: {error}") from error
    load_head(net, weights)
    origin = {**origin_of(path, net), BEGUN: encoder.args.get(WEIGHTS)}
    net = _frozen(net, device)
    before = _pretraining(encoder)
    return Classifier(
        candidate=Candidate(name=name, path=path, model=encoder, args=before),
        kind="a fine-tuned model",
        names=class_names(path, encoder.args, classes_of(weights)),
        logits=functools.partial(_logits, net, encoder, options),
        size=net.patch_embed.img_size,
        whole=crop_of(encoder.args) == "none",
        origin=origin,
    )


@torch.no_grad()
def _logits(
    net: nn.Module, encoder: MaskedAutoencoder, options: ClassifierOptions, pixels_BHWC: Tensor
) -> Tensor:
    """Return a fine-tuned network's logits, float32 [B, K], of pixels that are not normalised."""
    device = pixels_BHWC.device
    mean, std = (torch.tensor(v, device=device)[:, None, None] for v in (encoder.mean, encoder.std))
    pixels_BCHW = pixels_BHWC.permute(0, 3, 1, 2).float() / FULL_RANGE[pixels_BHWC.dtype]
    with inference(device, options.precision):
        return net((pixels_BCHW - mean) / std).float()


def _frozen(module: nn.Module, device: torch.device) -> Any:
    return module.to(device).eval().requires_grad_(False)


def _pretraining(encoder: MaskedAutoencoder) -> dict[str, Any]:
    """Return the settings of the training that a fine-tuning began from, if its file is there."""
    begun = encoder.args.get("checkpoint") or encoder.args.get("finetune")
    path = Path(begun) if isinstance(begun, str) else None
    return dict(training_settings(path)) if path and path.exists() else {}


def class_names(path: Path, args: Mapping[str, Any], outputs: int) -> tuple[str, ...]:
    """Return the class of each of a classifier's outputs, from its settings `args`.

    1000 outputs without names are taken for ImageNet's. Raises DataError if names are not known.
    """
    names = names_in(args)
    if not names and outputs == len(imagenet()):
        log.info("%s: its 1000 classes have no names: they are taken for ImageNet's", path)
        return imagenet()
    twice = [name for name, count in Counter(names).items() if count > 1]
    if not names or twice or len(names) > outputs:
        what = f"calls several classes {twice[0]}" if twice else "does not name them"
        raise DataError(
            f"{FLAG} {path} has {outputs} classes and {what}, so that they cannot be matched with "
            "folders: train it on images in folders, or on a .beton file with class names"
        )
    return (*names, *[""] * (outputs - len(names)))
