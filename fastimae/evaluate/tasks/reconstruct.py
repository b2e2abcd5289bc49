"""fastimae-eval reconstruct: reconstructions over mixing and masking ratios, drawn and measured.

The figures are those of the i-MAE paper (1, 3, 6 to 11) and of MAE: what a model makes of images
of which it sees little. Both views of a reconstruction are measured: see `Reconstruction`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from fastimae.engine.distributed import alone
from fastimae.evaluate.candidates import load_frozen
from fastimae.evaluate.images import Images
from fastimae.evaluate.mixing.mixtures import PairBatches, check_masks, check_pairs
from fastimae.evaluate.mixing.ratio_figures import Ratios, draw_all
from fastimae.evaluate.mixing.reconstruction import Reconstruction, reconstruct
from fastimae.evaluate.options.figures import ReconstructOptions
from fastimae.evaluate.origin import origin_of
from fastimae.evaluate.pages.tables import markdown
from fastimae.evaluate.results import open_results
from fastimae.log import log
from fastimae.models import MaskedAutoencoder
from fastimae.objectives.pictures import LEAK_NOTE
from fastimae.pictures.quality import quality
from fastimae.progress import Meter

VIEWS = ("pasted", "whole")


class Measurements:
    """What has been reconstructed so far: sums of the measures, and pictures to draw."""

    def __init__(self) -> None:
        self.images = 0
        self.sums: dict[tuple[Ratios, str, str], dict[str, float]] = {}
        """By ratios, branch and view; of each measure, over all images."""
        self.drawn: dict[Ratios, Reconstruction] = {}
        """The first images at each pair of ratios."""

    def add(self, ratios: Ratios, result: Reconstruction, pictures: int) -> None:
        """Add a batch at one pair of ratios. pictures: images to keep of the first batch."""
        self.drawn.setdefault(ratios, result.first(pictures))
        for branch, truth in result.truths.items():
            for view in VIEWS:
                sums = self.sums.setdefault((ratios, branch, view), {})
                for name, values in quality(getattr(result, view)[branch], truth).items():
                    sums[name] = sums.get(name, 0.0) + float(values.sum())

    def table(self) -> list[dict[str, Any]]:
        """Return a row for each pair of ratios, branch and view: means over the images."""
        rows = []
        for ((mask_ratio, mix_ratio), branch, view), sums in self.sums.items():
            mixing = {} if mix_ratio is None else {"mix_ratio": mix_ratio}
            means = {name: value / self.images for name, value in sums.items()}
            row = {"mask_ratio": mask_ratio, **mixing, "branch": branch, "view": view, **means}
            rows.append(row)
        return rows


def run(options: ReconstructOptions) -> None:
    """Reconstruct, draw the figures, print the table, and write results.json."""
    with open_results(options, "reconstruct") as results:
        device = alone(options.device).device
        model = load_frozen(options.checkpoint, device, **options.of_model())
        origin = origin_of(options.checkpoint, model)
        check_masks(model, options.mask_ratios, "--mask_ratios")
        images = options.val_or_train_images()
        check_pairs(images, options.batch_size, options.samples)
        measured = measure(options, model, images)
        table, note = measured.table(), note_of(model)
        draw_all(measured.drawn, table, results.picture, options.pictures, note)
        path = results.save(
            {"table": table, "images": measured.images, "note": note}, origin=origin
        )
        print(markdown([row for row in table if row["view"] == "whole"]))
        log.info("%s and pictures beside it", path)


def measure(options: ReconstructOptions, model: MaskedAutoencoder, images: Images) -> Measurements:
    """Reconstruct the images at all ratios, of mixing only for a model with two heads."""
    mix_ratios: Sequence[float | None] = options.mix_ratios if model.heads == 2 else (None,)
    pairs_of_ratios = [(mask, mix) for mask in options.mask_ratios for mix in mix_ratios]
    measured = Measurements()
    batches = PairBatches(
        images, model, samples=options.samples, batch_size=options.batch_size,
        workers=options.worker_count(), seed=options.seed,
    )  # fmt: skip
    with Meter(len(batches) * len(pairs_of_ratios), "reconstruct", "batch") as meter:
        for batch in batches:
            measured.images += len(batch.images)
            for ratios in pairs_of_ratios:
                measured.add(ratios, reconstruct(model, batch, *ratios), options.pictures)
                meter.update()
    return measured


def note_of(model: MaskedAutoencoder) -> str:
    """Return the caveat to print below the pictures; "" if there is none."""
    if model.norm_pix_loss:
        return f"{LEAK_NOTE}; pictures and numbers are better than the model alone could make them"
    return ""
