"""fastimae-export and fastimae-import: convert checkpoints from one layout to another."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from torch import Tensor

from fastimae.engine.checkpoint import FORMAT
from fastimae.engine.checkpoint_file import CLASSES, Unfit
from fastimae.interop import detectron2, huggingface, imae, pixio, timm
from fastimae.interop.architecture import name_of, settings_of
from fastimae.interop.conversion import CLASSIFIER, Conversion, encoder_of
from fastimae.interop.finetuned import classifies_mean, describe, is_probe, without_classifier
from fastimae.interop.load import build_model
from fastimae.interop.open_checkpoint import Checkpoint, open_checkpoint
from fastimae.interop.options import ExportOptions
from fastimae.interop.write import SUFFIXES, check_target, write_file, write_hub_folder
from fastimae.locks import file_to_write, folder_to_write
from fastimae.log import log
from fastimae.models import MaskedAutoencoder
from fastimae.models.settings import MASK_RATIO

_ENCODERS = ("timm", "detectron2")
"""Layouts of an encoder alone."""


def convert(options: ExportOptions) -> None:
    """Read a checkpoint, check it against its model, write it in another layout, log what changed.

    Raises CheckpointError.
    """
    lock = folder_to_write if options.to == "huggingface" else file_to_write
    suffixes = (detectron2.SUFFIX,) if options.to == "detectron2" else SUFFIXES
    check_target(options.out, options.to == "huggingface", options.force, suffixes)
    with lock(options.out, "OUT"):
        _convert(options)


def _convert(options: ExportOptions) -> None:
    arguments = options.of_model()
    reading = {name: arguments.pop(name) for name in ("use_ema", "hints")}
    checkpoint = open_checkpoint(options.checkpoint, **reading)
    if is_probe(checkpoint.weights):  # no layout has a BatchNorm in its classifier
        checkpoint = without_classifier(checkpoint)
    # A decoder need not fit if only the encoder is wanted, or the file has nothing else.
    encoder_only = options.encoder_only or options.to in _ENCODERS
    encoder_only = encoder_only or "decoder_pred.weight" not in checkpoint.weights
    model = build_model(
        checkpoint, encoder_only=encoder_only, allow_partial=options.allow_partial, **arguments
    )
    conversion = checkpoint.conversion
    if options.to == "fastimae":
        conversion = _keep_known(model, conversion)
    log.info("%s: %s", checkpoint.path, _describe(model, conversion))
    weights = conversion.weights
    try:
        for step in _steps(options, model, weights):
            conversion = step(weights)
            weights = conversion.weights
            log.info("for %s: %s", options.to, conversion.summary())
        _write(options, checkpoint, model, weights)
    except Unfit as error:
        raise error.of(checkpoint.path) from error
    log.info("wrote %s", options.out)
    if options.to == "detectron2":
        _report_config(options, model)


def _report_config(options: ExportOptions, model: MaskedAutoencoder) -> None:
    """Log what a config of ViTDet has to say for it."""
    lines = detectron2.config_of(model, options.out)
    log.info("in a config of ViTDet:\n%s", "\n".join(lines))
    if model.patch_size != detectron2.PATCH_SIZE:
        log.warning(
            "patches of %d pixels: detectron2's pyramid and heads are made for 16, so change "
            "their strides, too, or train with fastimae-eval detect",
            model.patch_size,
        )


def _keep_known(model: MaskedAutoencoder, conversion: Conversion) -> Conversion:
    """Drop what --allow_partial let through, as our commands would refuse a file with it.

    A classifier is kept, too.
    """
    names = model.state_dict().keys()
    kept = {k: w for k, w in conversion.weights.items() if k in names or k.startswith(CLASSIFIER)}
    unknown = (name for name in conversion.weights if name not in kept)
    dropped = (*conversion.dropped, *unknown)
    return dataclasses.replace(conversion, weights=kept, dropped=dropped)


def _steps(
    options: ExportOptions, model: MaskedAutoencoder, weights: Mapping[str, Tensor]
) -> Iterator[Callable[[Mapping[str, Tensor]], Conversion]]:
    """Yield the conversions from our layout to the target, in order. Raises Unfit."""
    two_heads = model.heads == 2
    if options.head and (not two_heads or options.encoder_only or options.to in _ENCODERS):
        raise Unfit("is written without two heads: drop --head, which selects one of an i-MAE's")
    foreign = options.to in ("huggingface", "mae") and not options.encoder_only
    if foreign and model.decoder_attention == "cross":
        raise Unfit(
            "has a decoder of cross-attention (--decoder_attention cross), which no other code "
            "knows: export it with --encoder_only"
        )
    if options.to == "detectron2":
        yield functools.partial(detectron2.from_mae, model)
    elif options.encoder_only and options.to != "timm":
        yield encoder_of
    elif two_heads and (options.head or options.to in ("huggingface", "mae")):
        if options.head or options.to == "huggingface":
            yield functools.partial(imae.one_head, head=options.head or "dominant")
        else:
            yield imae.from_mae
    of_mean = classifies_mean(weights)
    lacks_norm = of_mean and "norm.weight" not in weights
    if options.to == "timm":
        if lacks_norm and options.global_pool == "token":
            raise Unfit("was fine-tuned on the mean of its patches: drop --global_pool token")
        if options.global_pool == "avg" and "head.weight" in weights and not of_mean:
            raise Unfit(
                "has a classifier of its class token, not of a mean: drop --global_pool avg"
            )
        pool = options.global_pool or ("avg" if lacks_norm else "token")
        yield functools.partial(timm.from_mae, global_pool=pool)
    elif options.to == "huggingface":
        if lacks_norm:
            raise Unfit("has fc_norm instead of norm, which ViTMAE does not support: use --to timm")
        yield (pixio if model.class_tokens > 1 else huggingface).from_mae


def _write(
    options: ExportOptions,
    checkpoint: Checkpoint,
    model: MaskedAutoencoder,
    weights: Mapping[str, Tensor],
) -> None:
    settings = settings_of(model, checkpoint.args)
    if "head.bias" in weights and CLASSES in checkpoint.args:
        settings[CLASSES] = checkpoint.args[CLASSES]
    about = {"args": settings, "licence": checkpoint.licence}
    if options.to == "huggingface":
        config = _hub_config(model, settings, weights)
        processor = huggingface.processor_of(model)
        write_hub_folder(options.out, weights, about, config=config, preprocessor_config=processor)
        return
    if options.to == "fastimae":
        about["fastimae_format"] = FORMAT
    bare = options.to == "timm"
    if bare and options.out.suffix == ".pth" and CLASSES in settings:
        log.warning("%s cannot hold the names of classes: a .safetensors can", options.out)
    write_file(options.out, weights, about, bare=bare)


def _hub_config(
    model: MaskedAutoencoder, settings: Mapping[str, Any], weights: Mapping[str, Tensor]
) -> dict[str, Any]:
    if model.class_tokens > 1:
        return pixio.config_of(model)
    config = huggingface.config_of(model, settings.get("mask_ratio", MASK_RATIO))
    has_decoder = "decoder.decoder_pred.weight" in weights
    config["architectures"] = ["ViTMAEForPreTraining" if has_decoder else "ViTMAEModel"]
    return config


def _describe(model: MaskedAutoencoder, conversion: Conversion) -> str:
    height, width = model.img_size
    name = name_of(model) or f"an encoder of width {model.pos_embed.shape[-1]}"
    what = describe(conversion.weights)
    if not what and "decoder_pred.weight" not in conversion.weights:
        what = "an encoder without a decoder"
    parts = f"{name}, {height}x{width} px", conversion.summary(), what
    return "; ".join(filter(None, parts))
