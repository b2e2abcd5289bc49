"""fastimae-eval cka: how alike an encoder's representations of masked and of whole images are.

Figure 1 of the occlusion paper: linear CKA at each block, over masking ratios 0.1 to 0.9, of MAE,
R-MAE, C-MAE, fine-tuned models, supervised ones and MoCo v3. Masked patches are "dropped", as in
MAE; --mask_tokens lets encoders that know mask tokens have them. What the paper leaves open, and
how we read it:

- Which representation. --pool avg, the default: the mean of the patches, which is what its
  fine-tuning classifies (section 5), and which exists at any number of visible patches. Of a masked
  image it is a mean of other patches than of the whole one, so it can change although no token
  does: --pool common takes the same patches of both, and tokens compares them one by one.
- Where in a block. After it, in the residual stream, without the encoder's last norm: see
  `block_tokens`.
- Which estimate. That of its reference, Kornblith et al. (2019), which is too large if images are
  few; --debiased is the unbiased one.
- Masks. All models see the same images under the same masks, in the units of --checkpoint.

Ours: the means over all layers, and --random_baseline.
"""

from __future__ import annotations

import copy
import dataclasses
import math
from collections.abc import Sequence

import torch

from fastimae.engine.distributed import alone
from fastimae.evaluate.candidates import Candidate, candidates_of, check_same_images
from fastimae.evaluate.differences import labels_of
from fastimae.evaluate.figures.occlusion import mask_token_in, similarities
from fastimae.evaluate.figures.similarity_maps import draw_maps, draw_means
from fastimae.evaluate.figures.similarity_tables import Row, grid_of, mean_of, means_of, printed
from fastimae.evaluate.images import Images
from fastimae.evaluate.mixing.mask_units import (
    check_masks,
    mask_columns,
    mask_unit_of,
    warn_of_other_units,
)
from fastimae.evaluate.mixing.mixtures import PairBatches
from fastimae.evaluate.options.cka import FEWEST_IMAGES, CkaOptions
from fastimae.evaluate.origin import origin_of
from fastimae.evaluate.pages.tables import markdown
from fastimae.evaluate.results import Results, open_results
from fastimae.loaders.errors import DataError
from fastimae.log import log
from fastimae.progress import tracked
from fastimae.settings import ConfigError

PICTURE, MEANS = "cka.png", "cka_means.png"
RANDOM = "random weights"
POOLS = {
    "avg": "means of the patches",
    "cls": "class tokens",
    "common": "means of the patches that are visible in both",
    "tokens": "the patches that are visible in both, one by one",
}


def run(options: CkaOptions) -> None:
    """Measure, print the table, and write results.json, cka.png and cka_means.png."""
    with open_results(options, "cka") as results:
        _measure_and_draw(options, results)


def _measure_and_draw(options: CkaOptions, results: Results) -> None:
    candidates = candidates_of(options, alone(options.device).device, encoder_only=True)
    origin = origin_of(options.checkpoint, candidates[0].model)
    if options.random_baseline:
        candidates.append(random_twin(candidates[0], options.seed))
    check_same_images(candidates)
    units, tokens = units_of(candidates, options), mask_tokens_of(candidates, options)
    ratios = list(dict.fromkeys(options.mask_ratios))
    images = options.val_or_train_images()
    table: list[Row] = []
    for candidate, unit, token in zip(candidates, units, tokens, strict=True):
        rows, count = measure(options, candidate, unit, token, images)
        table += rows
    means = means_of(table)
    labels, grids = labels_of(candidates), [grid_of(table, each.name) for each in candidates]
    note = f"CKA of masked and whole images: {POOLS[options.pool]}, {count} images"
    note += ", debiased" if options.debiased else ""
    note += ", with mask tokens where an encoder has them" if options.mask_tokens else ""
    draw_maps(list(zip(labels, grids, strict=True)), ratios, results.picture(PICTURE), note)
    draw_means(means, results.picture(MEANS), note)
    numbers = {"mean_cka": mean_of(table[: grids[0].size]), "images": count, "note": note}
    path = results.save({**numbers, "means": means, "table": table}, origin=origin)
    print(f"{note}\n\n{markdown(printed(table, means))}")
    log.info("%s and 2 pictures beside it", path)


def random_twin(candidate: Candidate, seed: int) -> Candidate:
    """Return a candidate of the same architecture with random weights, a function of the seed."""
    model = copy.deepcopy(candidate.model)
    torch.manual_seed(seed)
    model.reset_parameters()
    model.fresh_decoder = True
    return dataclasses.replace(candidate, name=RANDOM, model=model, args={})


def units_of(candidates: Sequence[Candidate], options: CkaOptions) -> list[int]:
    """Return the mask unit of each model in its patches: the same squares of pixels for all.

    They are those of --mask_patch_size, else of the first model's training; a warning names models
    that were trained with others. Raises ConfigError for models whose images do not consist of
    them, and for a --mask_ratios that masks all or none of them.
    """
    first = candidates[0]
    size = mask_unit_of(first, options.mask_patch_size) * first.model.patch_size
    units = [mask_unit_of(candidate, size) for candidate in candidates]
    for candidate, unit in zip(candidates, units, strict=True):
        if candidate.args:  # a model of other programs was not trained with masks that we know of
            warn_of_other_units([candidate], unit, options.mask_patch_size)
        check_masks(candidate.model, options.mask_ratios, "--mask_ratios", unit)
    return units


def mask_tokens_of(
    candidates: Sequence[Candidate], options: CkaOptions
) -> list[torch.Tensor | None]:
    """Return each encoder's mask token; None to drop masked patches.

    Raises ConfigError if no encoder has one, and --mask_tokens asks for them.
    """
    if not options.mask_tokens:
        return [None] * len(candidates)
    tokens = [
        None if each.name == RANDOM else mask_token_in(each.path, averaged=options.use_ema)
        for each in candidates
    ]
    if not any(token is not None for token in tokens):
        raise ConfigError("--mask_tokens: no encoder was trained with mask tokens, as C-MAE's are")
    return tokens


def measure(
    options: CkaOptions,
    candidate: Candidate,
    unit: int,
    mask_token: torch.Tensor | None,
    images: Images,
) -> tuple[list[Row], int]:
    """Return a row for each mask ratio and layer of a model, and the number of images.

    unit, mask_token: see `similarities`. The images and the masks depend on the options alone.
    Raises DataError if too few can be read.
    """
    model = candidate.model
    batches = PairBatches(
        images, model, samples=options.samples, batch_size=options.batch_size,
        workers=options.worker_count(), seed=options.seed, mixed=False,
    )  # fmt: skip
    ratios = list(dict.fromkeys(options.mask_ratios))
    token = None if mask_token is None else mask_token.to(model.pos_embed)
    shown = tracked(batches, candidate.name, "batch")
    found = similarities(model, shown, ratios, unit, options.pool, token)
    count = len(batches.batches.order) - len(batches.batches.bad)
    if count < FEWEST_IMAGES:
        raise DataError(f"{images.source}: CKA takes {FEWEST_IMAGES} images or more, not {count}")
    rows = []
    for ratio in ratios:
        masks = {"mask_ratio": ratio, **mask_columns(model, ratio, unit)}
        for layer in range(len(model.blocks)):
            cka = found[ratio, layer].cka(debiased=options.debiased)
            rows.append({
                "model": candidate.name, "kind": candidate.kind, **masks, "layer": layer,
                "cka": cka if math.isfinite(cka) else None,
            })  # fmt: skip
    if count <= (width := model.pos_embed.shape[-1]) and not options.debiased:
        log.warning(
            "%s: %d images are no more than its width of %d, so that CKA is near 1 whatever it has "
            "learned: give --debiased, or more --samples", candidate.path, count, width,
        )  # fmt: skip
    return rows, count
