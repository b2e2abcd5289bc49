"""fastimae-eval reconstruct: reconstructions over mixing and masking ratios, drawn and measured.

The figures are those of the i-MAE paper (1, 3 to 11) and of MAE: what a model makes of images of
which it sees little. Where nothing is masked (--mask_ratios 0), the measures are those of the
hierarchical paper (figures 5 and 9, section C.3), which passes all validation images through
encoder and decoder without a mask token. Every view is measured: see `Reconstruction`.

With --others several models reconstruct the same images, mixtures of the same partners, under the
same masks as far as their patches and mask units allow; each model keeps the mask unit that it was
trained with. A MAE is then fed the mixtures, too: see `subjects`. Our reading of figure 4 of the
i-MAE paper, row (a): the one picture that a MAE makes of a mixture is compared with the subordinate
image, the dominant one and the mixture itself.
"""

from __future__ import annotations

from collections.abc import Sequence

from fastimae.engine.distributed import alone
from fastimae.evaluate.candidates import candidates_of
from fastimae.evaluate.images import Images
from fastimae.evaluate.mixing.measurements import Measurements, Setting
from fastimae.evaluate.mixing.mixtures import PairBatches, Pairs, check_pairs
from fastimae.evaluate.mixing.model_figures import compare_all
from fastimae.evaluate.mixing.ratio_figures import draw_all
from fastimae.evaluate.mixing.reconstruction import UNMASKED, Reconstruction, reconstruct
from fastimae.evaluate.mixing.subjects import Subject, check_ratios, subjects_of
from fastimae.evaluate.options.figures import ReconstructOptions
from fastimae.evaluate.origin import origin_of
from fastimae.evaluate.pages.tables import all_keys, markdown
from fastimae.evaluate.results import open_results
from fastimae.log import log
from fastimae.objectives.pictures import LEAK_NOTE
from fastimae.pictures.display import Display
from fastimae.pictures.plots import joined
from fastimae.progress import Meter

PRINTED = ("whole", UNMASKED)
"""Views in the printed table: pictures that are predicted everywhere."""
NOT_PRINTED = ("kind", "view", "images")


def run(options: ReconstructOptions) -> None:
    """Reconstruct, draw the figures, print the table, and write results.json."""
    with open_results(options, "reconstruct") as results:
        candidates = candidates_of(options, alone(options.device).device)
        origin = origin_of(options.checkpoint, candidates[0].model)
        subjects = subjects_of(candidates, options.mask_patch_size)
        check_ratios(subjects, options.mask_ratios)
        images = options.val_or_train_images()
        measured = measure(options, subjects, images)
        table, note = measured.table(subjects), joined(note_of(subjects), measured.note)
        if len(subjects) == 1:
            drawn = {
                (each.mask_ratio, each.mix_ratio): made for each, made in measured.drawn.items()
            }
            draw_all(drawn, table, results.picture, options.pictures, note)
        else:
            compare_all(subjects, measured, results.picture, note)
        count = max(measured.images.values())
        path = results.save({"table": table, "images": count, "note": note}, origin=origin)
        rows = [row for row in table if row["view"] in PRINTED]
        print(markdown(rows, [key for key in all_keys(rows) if key not in NOT_PRINTED]))
        log.info("%s and pictures beside it", path)


def measure(
    options: ReconstructOptions, subjects: Sequence[Subject], images: Images
) -> Measurements:
    """Reconstruct the images by all subjects at all ratios, of mixing only what is mixed.

    Pictures are measured batch by batch. The images of a ratio do not depend on the other ratios.
    """
    first = subjects[0].candidate.model
    display = Display(first.mean, first.std, options.show_channels)
    mixed = any(subject.mixed for subject in subjects)
    passes: dict[int | None, list[Setting]] = {}
    for setting in settings_of(options, subjects):
        passes.setdefault(options.samples_at(setting.mask_ratio), []).append(setting)
    for samples in passes if mixed else ():
        check_pairs(images, options.batch_size, samples)
    if not mixed and options.mix_ratios != ReconstructOptions.mix_ratios:
        log.warning("--mix_ratios has no effect: no model is one of mixtures")
    batches = [
        PairBatches(
            images, first, samples=samples, batch_size=options.batch_size,
            workers=options.worker_count(), seed=options.seed, mixed=mixed,
        )
        for samples in passes
    ]  # fmt: skip
    work = list(zip(batches, passes.values(), strict=True))
    measured = Measurements(options.pictures, display)
    total = sum(len(of_pass) * len(settings) for of_pass, settings in work)
    with Meter(total, "reconstruct", "batch") as meter:
        for of_pass, settings in work:
            for batch in of_pass:
                for setting in settings:
                    measured.add(setting, _reconstruct(subjects[setting.subject], batch, setting))
                    meter.update()
    return measured


def _reconstruct(subject: Subject, batch: Pairs, setting: Setting) -> Reconstruction:
    model, ratios = subject.candidate.model, (setting.mask_ratio, setting.mix_ratio)
    return reconstruct(model, batch, *ratios, unit=subject.unit, targets=subject.targets)


def settings_of(options: ReconstructOptions, subjects: Sequence[Subject]) -> list[Setting]:
    """Return what to measure: each subject at each ratio, of mixing only if it is fed mixtures."""
    mask_ratios, mix_ratios = map(dict.fromkeys, (options.mask_ratios, options.mix_ratios))
    return [
        Setting(number, mask_ratio, mix_ratio)
        for number, subject in enumerate(subjects)
        for mask_ratio in mask_ratios
        for mix_ratio in (mix_ratios if subject.mixed else (None,))
    ]


def note_of(subjects: Sequence[Subject]) -> str:
    """Return the caveat to print below the pictures; "" if there is none."""
    leaky = [each.candidate for each in subjects if each.candidate.model.norm_pix_loss]
    if not leaky:
        return ""
    names = ", ".join(dict.fromkeys(candidate.name for candidate in leaky))
    whose = f" (of {names})" if len(subjects) > len(leaky) else ""
    better = "better than the model alone could make them"
    return f"{LEAK_NOTE}; pictures and numbers{whose} are {better}"
