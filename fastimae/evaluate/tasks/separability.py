"""fastimae-eval separability: linear separability of mixtures' latents, the i-MAE paper's M_ls.

The paper (section 3.2, equation 6; section 4.3.1, table 2): mix two images, take the latent of the
subordinate one (from its head in i-MAE; of a model without heads, the latent of the mixture), and
measure its squared l2 distance to the latent that a pre-trained MAE has of that image alone, before
and after a linear regression. The text calls this the mean squared error: distances here are means
over the elements of the latents of all tokens and images.

What differs between the text and the released code, or is left open:

- --space. The text: the target is the *encoder's* output. The released code: that of
  `decoder_embed`, where its heads are, too. All rows of a table are in one space. "Before" favours
  i-MAEs that were distilled in that space; "after" does not.
- --protocol paper is table 2's: 100 images, mixing ratio 0.3, a linear layer trained for 2,000
  epochs. Whether "After" is measured on the same images is not said, so there are two columns: on
  them, and on 100 others. Ours: the 100 are of the training images, the layer starts from random
  values, and an epoch is a step of Adam on all tokens, with learning rate 0.001.
- --protocol held_out is ours: many images, several ratios, a map in closed form, and other images
  to measure it on. `unexplained` is that distance over the variance of the targets, so that latents
  of different sizes can be compared; 1: no better than their mean.

Our reading in both: mixture and image share a mask; one affine map serves all tokens, with the
class token, which --tokens patches leaves out. The paper's rows are a MAE, which sees mixtures here
for the first time, or a model "trained without the disentanglement module" (fastimae-train
--objective imae --no_disentangle), i-MAE without distillation, and i-MAE.
"""

from __future__ import annotations

from collections.abc import Sequence

from fastimae.engine.distributed import alone
from fastimae.evaluate.candidates import Candidate, candidates_of, load_frozen, of_others
from fastimae.evaluate.images import Images
from fastimae.evaluate.mixing.comparison import check_enough, pairs_of, rows_of
from fastimae.evaluate.mixing.mask_units import (
    check_masks,
    mask_columns,
    mask_unit_of,
    warn_of_other_units,
)
from fastimae.evaluate.mixing.mixtures import clean_latents, mixture_latents, own_space
from fastimae.evaluate.mixing.protocols import COLUMNS, PROTOCOLS, caption, in_words
from fastimae.evaluate.mixing.regression import Moments
from fastimae.evaluate.mixing.separability_figures import draw
from fastimae.evaluate.mixing.spaces import check_space, width_in
from fastimae.evaluate.options.mixtures import SeparabilityOptions
from fastimae.evaluate.origin import origin_of
from fastimae.evaluate.pages.tables import markdown
from fastimae.evaluate.results import Results, open_results
from fastimae.log import log
from fastimae.models import MaskedAutoencoder
from fastimae.models.settings import HeadSpace
from fastimae.settings import ConfigError

PICTURE = "separability.png"


def run(options: SeparabilityOptions) -> None:
    """Measure, print the table, and write results.json and separability.png."""
    with open_results(options, "separability") as results:
        _measure_and_draw(options, results)


def _measure_and_draw(given: SeparabilityOptions, results: Results) -> None:
    device, options = alone(given.device).device, given.of_protocol()
    teacher = load_frozen(options.teacher, device, **of_others(options.of_model()))
    candidates = candidates_of(options, device)
    origin = origin_of(options.checkpoint, candidates[0].model)
    space = options.space or own_space(candidates[0].model)
    check_space(candidates, teacher, space)
    unit = mask_unit_of(candidates[0], options.mask_patch_size)
    target = Candidate(name="teacher", path=options.teacher, model=teacher, args=teacher.args)
    warn_of_other_units([*candidates, target], unit, options.mask_patch_size)
    check_masks(teacher, [options.mask_ratio], "--mask_ratio", unit)
    train, val = given.train_images(), given.val_images()
    check_images(options, train, val)
    fit_on = collect(options, candidates, teacher, space, train, options.train_samples)
    test_on = collect(options, candidates, teacher, space, val, options.val_samples)
    measure, words = PROTOCOLS[options.protocol], in_words(options, space)
    masks = mask_columns(teacher, options.mask_ratio, unit)
    rows = rows_of(
        candidates, options.mix_ratios,
        lambda *key: {
            **masks, "measured": words, **measure(fit_on[key], test_on[key], options),
            "rows_fitted": fit_on[key].rows, "rows_measured": test_on[key].rows,
        },
    )  # fmt: skip
    note = caption(options, space, width_in(teacher, space))
    draw(rows, results.picture(PICTURE), note)
    path = results.save({"note": note, "space": space, "table": rows}, origin=origin)
    print(f"{note}\n\n{markdown(rows, ('model', 'kind', 'mix_ratio', *COLUMNS[options.protocol]))}")
    log.info("%s", path)


def check_images(options: SeparabilityOptions, train: Images, val: Images) -> None:
    """Raise ConfigError if there are too few images for a pair, or for the paper's protocol.

    Warn if nothing is held out.
    """
    check_enough(options, train, val)
    if train.source.resolve() == val.source.resolve():
        log.warning("%s: the map is fitted on the images it is measured on", val.source)
    for images in (train, val) if options.protocol == "paper" else ():
        if len(images) < options.train_samples:
            raise ConfigError(
                f"{images.source} has {len(images)} images: --protocol paper takes "
                f"{options.train_samples}, --protocol held_out any number"
            )


def collect(
    options: SeparabilityOptions,
    candidates: Sequence[Candidate],
    teacher: MaskedAutoencoder,
    space: HeadSpace,
    images: Images,
    samples: int,
) -> dict[tuple[int, float], Moments]:
    """Return the moments of mixtures' latents and the teacher's targets, by candidate and ratio."""
    width = width_in(teacher, space)
    device = next(teacher.parameters()).device
    moments = {
        (number, ratio): Moments(width, width, device=device)
        for number in range(len(candidates)) for ratio in options.mix_ratios
    }  # fmt: skip
    models = teacher, *(candidate.model for candidate in candidates)
    first = {model: model.class_tokens if options.tokens == "patches" else 0 for model in models}
    if options.tokens == "all" and len({model.class_tokens for model in models}) > 1:
        raise ConfigError("the models differ in their class tokens: add --tokens patches")
    unit = mask_unit_of(candidates[0], options.mask_patch_size)
    for batch in pairs_of(options, images, teacher, samples):
        mask = batch.mask(teacher, options.mask_ratio, unit)
        target = clean_latents(teacher, batch, mask, space)[:, first[teacher] :]
        for (number, ratio), sums in moments.items():
            model = candidates[number].model
            latent = mixture_latents(model, batch, mask, ratio, space)[0]
            sums.add(latent[:, first[model] :], target)
    return moments
