"""fastimae-export and fastimae-import: checkpoints from one layout to another."""

from __future__ import annotations

import dataclasses
import functools
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Literal

import tyro
from torch import Tensor

from fastimae.arguments import parse
from fastimae.engine.checkpoint import FORMAT
from fastimae.engine.files import CLASSES, Unfit
from fastimae.interop import huggingface, imae, timm
from fastimae.interop.conversion import CLASSIFIER, Conversion, encoder_of
from fastimae.interop.finetuned import (
    describe,
    has_classifier,
    is_probe,
    pools,
    without_classifier,
)
from fastimae.interop.load import build_model
from fastimae.interop.open import Checkpoint, open_checkpoint
from fastimae.interop.options import ModelOptions
from fastimae.interop.sizes import name_of, settings_of
from fastimae.interop.write import check_target, write_file, write_hub_folder
from fastimae.locks import file_to_write, folder_to_write
from fastimae.models import MaskedAutoencoder
from fastimae.models.mae import MASK_RATIO

log = logging.getLogger("fastimae")

Target = Literal["timm", "huggingface", "mae", "fastimae"]


@dataclasses.dataclass(kw_only=True)
class ImportOptions(ModelOptions):
    """Bring another's checkpoint (MAE, i-MAE, timm, Hugging Face) into our layout."""

    checkpoint: tyro.conf.Positional[Annotated[Path, tyro.conf.arg(metavar="CHECKPOINT")]]
    """A .pth, a .safetensors, or a folder with Hugging Face's config.json."""
    out: tyro.conf.Positional[Annotated[Path, tyro.conf.arg(metavar="OUT")]]
    """The file to write: .safetensors or .pth. A folder with --to huggingface."""
    encoder_only: bool = False
    """Leave the decoder out."""
    allow_partial: bool = False
    """Write it even if keys are missing or left over (they are listed)."""
    force: bool = False
    """Write over OUT."""
    debug: bool = False
    """Show tracebacks."""


@dataclasses.dataclass(kw_only=True)
class ExportOptions(ImportOptions):
    """Write a checkpoint (ours, or any that fastimae-import reads) for other code."""

    to: Target
    """Whose layout. timm: always the encoder alone. huggingface: a folder for from_pretrained."""
    head: imae.Head | None = None
    """Of an i-MAE: the head to keep as decoder_embed. None: both, the dominant for huggingface."""
    global_pool: Literal["token", "avg"] | None = None
    """For timm: avg renames norm to fc_norm, as models with global_pool='avg' want it. None: avg
    for a file that was fine-tuned so, else token."""


def export(argv: Sequence[str]) -> int:
    """Parse and export. Raises UsageError or CheckpointError."""
    convert(parse("fastimae-export", ExportOptions, argv))
    return 0


def import_(argv: Sequence[str]) -> int:
    """Parse and import. Raises UsageError or CheckpointError."""
    options = parse("fastimae-import", ImportOptions, argv)
    convert(ExportOptions(to="fastimae", **vars(options)))
    return 0


def convert(options: ExportOptions) -> None:
    """Read a checkpoint, check it against its model, write it in another layout, say what changed.

    Raises CheckpointError.
    """
    place = folder_to_write if options.to == "huggingface" else file_to_write
    check_target(options.out, options.to == "huggingface", options.force)
    with place(options.out, "OUT"):
        _convert(options)


def _convert(options: ExportOptions) -> None:
    said = options.of_model()
    how = {name: said.pop(name) for name in ("use_ema", "hints")}
    checkpoint = open_checkpoint(options.checkpoint, **how)
    if is_probe(checkpoint.weights):  # nobody's classifier has a place for its BatchNorm
        checkpoint = without_classifier(checkpoint)
    model = build_model(
        checkpoint, encoder_only=_is_encoder(options, checkpoint.weights),
        allow_partial=options.allow_partial, **said,
    )  # fmt: skip
    ours = checkpoint.conversion
    if options.to == "fastimae":
        ours = _known_to(model, ours)
    log.info("%s: %s", checkpoint.path, _described(model, ours))
    weights = ours.weights
    try:
        for step in _steps(options, model, weights):
            conversion = step(weights)
            weights = conversion.weights
            log.info("for %s: %s", options.to, conversion.summary())
        _write(options, checkpoint, model, weights)
    except Unfit as error:
        raise error.of(checkpoint.path) from error
    log.info("wrote %s", options.out)


def _known_to(model: MaskedAutoencoder, ours: Conversion) -> Conversion:
    """Without what --allow_partial let through: our commands would refuse a file with it. A
    classifier is known, too."""
    names = model.state_dict().keys()
    kept = {k: w for k, w in ours.weights.items() if k in names or k.startswith(CLASSIFIER)}
    unknown = (name for name in ours.weights if name not in kept)
    return dataclasses.replace(ours, weights=kept, dropped=(*ours.dropped, *unknown))


def _is_encoder(options: ExportOptions, weights: Mapping[str, Tensor]) -> bool:
    """Whether the encoder alone is wanted, or all there is: no decoder has to fit then."""
    return options.encoder_only or options.to == "timm" or "decoder_pred.weight" not in weights


def _steps(
    options: ExportOptions, model: MaskedAutoencoder, weights: Mapping[str, Tensor]
) -> Iterator[Callable[[Mapping[str, Tensor]], Conversion]]:
    """What is to be done to our names, one after the other. Raises Unfit."""
    two_heads = model.heads == 2
    if options.head and (not two_heads or options.encoder_only or options.to == "timm"):
        raise Unfit("goes out without two heads: --head is for the decoder of an i-MAE")
    if options.encoder_only and options.to != "timm":
        yield encoder_of
    elif two_heads and (options.head or options.to in ("huggingface", "mae")):
        if imae.head_space(weights) == "encoder":
            raise Unfit(
                "has its heads in the encoder's width (--head_space encoder), which no other code "
                "knows: export it with --encoder_only"
            )
        if options.head or options.to == "huggingface":
            yield functools.partial(imae.one_head, head=options.head or "dominant")
        else:
            yield imae.from_mae
    pools_only = pools(weights) and "norm.weight" not in weights
    if options.to == "timm":
        if pools_only and options.global_pool == "token":
            raise Unfit("was fine-tuned on the mean of its patches: drop --global_pool token")
        if options.global_pool == "avg" and "head.weight" in weights and not pools(weights):
            raise Unfit(
                "has a classifier of its class token, of no use on a mean: drop --global_pool avg"
            )
        pool = options.global_pool or ("avg" if pools_only else "token")
        yield functools.partial(timm.from_mae, global_pool=pool)
    elif options.to == "huggingface":
        if pools_only:
            raise Unfit(
                "has fc_norm in place of norm, which ViTMAE has no place for: use --to timm"
            )
        yield huggingface.from_mae


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
        config = huggingface.config_of(model, settings.get("mask_ratio", MASK_RATIO))
        whole = "decoder.decoder_pred.weight" in weights
        config["architectures"] = ["ViTMAEForPreTraining" if whole else "ViTMAEModel"]
        processor = huggingface.processor_of(model)
        write_hub_folder(options.out, weights, about, config=config, preprocessor_config=processor)
        return
    if options.to == "fastimae":
        about["fastimae_format"] = FORMAT
    bare = options.to == "timm"
    if bare and options.out.suffix == ".pth" and CLASSES in settings:
        log.warning("%s keeps no names of classes: a .safetensors does", options.out)
    write_file(options.out, weights, about, bare=bare)


def _described(model: MaskedAutoencoder, ours: Conversion) -> str:
    height, width = model.img_size
    classifier = f"; {describe(ours.weights)}" if has_classifier(ours.weights) else ""
    name = name_of(model) or f"an encoder of width {model.pos_embed.shape[-1]}"
    return f"{name}, {height}x{width} px; {ours.summary()}{classifier}"
