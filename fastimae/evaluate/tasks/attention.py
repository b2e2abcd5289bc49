"""fastimae-eval attention: where a token looks, and how wide, for one model or several.

attention.png is the hierarchical paper's (figures 6 and 7, appendix C.4): the last block, for the
class token the mean over heads, for a patch the first head. It leaves out what is below DINO's
threshold, which we read as that of DINO's figures: shown are the patches that hold 60 % of the
mass. The i-MAE paper's second version shows MAE beside i-MAE (figure 5, right) and says that
i-MAE has "a wider view", without numbers; the measures of width are ours: `measure`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fastimae.engine.distributed import alone
from fastimae.evaluate.candidates import Candidate, candidates_of, check_same_images
from fastimae.evaluate.center_batches import CenterBatches
from fastimae.evaluate.differences import labels_of
from fastimae.evaluate.figures.attention_maps import (
    attention_maps,
    chosen_layers,
    measure,
    most_attended,
    same_place,
    seen_by,
    token_number,
)
from fastimae.evaluate.figures.attention_pictures import (
    View,
    draw,
    draw_side_by_side,
    draw_widths,
)
from fastimae.evaluate.images import random_indices
from fastimae.evaluate.options.figures import AttentionOptions
from fastimae.evaluate.origin import origin_of
from fastimae.evaluate.pages.tables import markdown
from fastimae.evaluate.results import Results, open_results
from fastimae.loaders.errors import DataError
from fastimae.log import log
from fastimae.models import MaskedAutoencoder
from fastimae.pictures.display import Display
from fastimae.progress import tracked

PICTURE, WIDTHS = "attention.png", "attention_width.png"
IMAGES_AT_ONCE = 8
"""Maps of all layers and heads take much memory."""


class Observed:
    """One model: which of its tokens and layers are looked at, and what was measured so far."""

    def __init__(
        self, candidate: Candidate, first: MaskedAutoencoder, options: AttentionOptions
    ) -> None:
        self.candidate, self.model, self.mass = candidate, candidate.model, options.mass
        self.patch = same_place(options.token, first, self.model)
        self.token = token_number(self.model, self.patch)
        self.layers = chosen_layers(self.model, options.layers)
        self._measured: list[dict[int, dict[str, Tensor]]] = []

    def observe(self, pixels: Tensor) -> list[Tensor]:
        """Return the attention of all blocks, and measure that of the chosen layers."""
        maps = attention_maps(self.model, pixels)
        self._measured.append(
            {
                layer: measure(maps[layer], self.token, self.model.grid, self.mass)
                for layer in self.layers
            }
        )
        return maps

    def views(self, maps: Sequence[Tensor]) -> list[View]:
        """Return what to draw of each image: the last of the chosen layers."""
        layer = self.layers[-1]
        seen_BL = seen_by(maps[layer], self.token).cpu()
        kept_BL = most_attended(seen_BL, self.mass)
        return [
            View(weights, kept, self.model.grid, self.patch, layer)
            for weights, kept in zip(seen_BL, kept_BL, strict=True)
        ]

    def rows(self) -> list[dict[str, Any]]:
        """Return a row of the table for each layer: means over images."""
        rows = []
        for layer in self.layers:
            batches = [measured[layer] for measured in self._measured]
            means = {
                name: float(torch.cat([batch[name] for batch in batches]).mean())
                for name in batches[0]
            }
            means["distance_pixels"] = means["distance_patches"] * self.model.patch_size
            rows.append({"model": self.candidate.name, "layer": layer, **means})
        return rows


def run(options: AttentionOptions) -> None:
    """Draw attention.png, for one model attention-N.png too, and measure how wide attention is."""
    with open_results(options, "attention") as results:
        _measure_and_draw(options, results)


def _measure_and_draw(options: AttentionOptions, results: Results) -> None:
    device = alone(options.device).device
    candidates = candidates_of(options, device, encoder_only=True)
    check_same_images(candidates)
    first = candidates[0].model
    origin = origin_of(options.checkpoint, first)
    observed = [Observed(candidate, first, options) for candidate in candidates]
    images = options.val_or_train_images()
    count = max(options.samples, options.measured)
    chosen = random_indices(images, count, np.random.default_rng(options.seed))
    batches = CenterBatches(
        images, first.img_size, batch_size=IMAGES_AT_ONCE, workers=options.worker_count(),
        channels=first.in_chans, indices=chosen,
    )  # fmt: skip
    overview, widths = results.picture(PICTURE), results.picture(WIDTHS)
    display = Display(first.mean, first.std, options.show_channels)
    drawn: list[tuple[Tensor, list[View]]] = []
    measured, note = 0, ""
    for pixels, _ in tracked(batches, "attention", "batch"):
        to_draw = display(pixels[: options.samples - len(drawn)])
        note = display.note(pixels.dtype)
        views = []
        for model in observed:
            maps = model.observe(pixels.to(device))
            views.append(model.views(maps))
            if len(observed) == 1:
                _draw_heads(to_draw, maps, model, results, note)
        drawn += zip(to_draw, zip(*views, strict=True), strict=False)
        measured += len(pixels)
    if not drawn:
        raise DataError(f"{images.source}: none of {len(chosen)} images can be read")
    draw_side_by_side(drawn, labels_of(candidates), options.mass, overview, note)
    table = [row for model in observed for row in model.rows()]
    draw_widths(table, options.mass, widths)
    if len(observed) == 1:
        table = [{key: row[key] for key in row if key != "model"} for row in table]
    path = results.save({"table": table, "images": measured}, origin=origin)
    print(markdown(table))
    log.info("%s and %d pictures beside it", path, len(results.pictures))


def _draw_heads(
    images: Tensor, maps: Sequence[Tensor], model: Observed, results: Results, note: str
) -> None:
    """Draw attention-N.png for each image: all heads of the chosen layers."""
    attention = torch.stack([maps[layer][:, :, model.token, 1:] for layer in model.layers], 1)
    for image, of_image in zip(images, attention.cpu(), strict=False):
        path = results.picture(f"attention-{len(results.pictures) - 2}.png")
        draw(image, of_image, model.layers, model.model.grid, model.patch, path, note)
