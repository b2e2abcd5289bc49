"""Figures of clusters: their sizes, and images of some of them.

N = images, K = clusters, H, W, C = height, width, channels.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fastimae.evaluate.center_batches import CenterBatches
from fastimae.evaluate.clustering.agreement import contingency
from fastimae.evaluate.clustering.kmeans import Clusters
from fastimae.evaluate.images import Images
from fastimae.evaluate.labels.class_names import class_name
from fastimae.models import MaskedAutoencoder
from fastimae.pictures.display import Display
from fastimae.pictures.picture_table import draw_picture_table
from fastimae.pictures.plots import COLORS, plain_style, plt, save_figure

CLUSTERS, NEAREST, ANY = 10, 5, 5
"""Clusters that are drawn; images of each: those nearest its centre, and others at random."""


def draw_sizes(sizes: Sequence[int], path: Path) -> None:
    """Draw the number of images in each cluster, the largest first."""
    mean = np.mean(sizes)
    with plain_style():
        figure, axis = plt.subplots(figsize=(6, 3.4), layout="constrained")
        axis.bar(
            np.arange(1, len(sizes) + 1), sorted(sizes, reverse=True), width=1, color=COLORS[0]
        )
        axis.axhline(mean, color=COLORS[1], label=f"mean: {mean:.0f}")
        axis.set(
            xlabel="cluster, by size", ylabel="images",
            title=f"{len(sizes)} clusters of {sum(sizes)} images",
        )  # fmt: skip
        axis.legend()
        save_figure(figure, path)


def draw_images(
    found: Clusters,
    rows: Tensor,
    images: Images,
    positions: NDArray[np.int64],
    model: MaskedAutoencoder,
    path: Path,
    rng: np.random.Generator,
    show_channels: Sequence[int] | None = None,
) -> None:
    """Draw images of some clusters, from the largest to the smallest: the most typical, and any.

    rows: what was clustered, [N, D]. positions: of these N among the images. model: gives the size
    of the images. show_channels: as in `PictureSettings`.
    """
    display = Display(model.mean, model.std, show_channels)
    order = torch.bincount(found.labels).argsort(descending=True, stable=True).tolist()
    shown = [order[i] for i in np.unique(np.linspace(0, len(order) - 1, CLUSTERS).astype(int))]
    members = {cluster: _members(found, rows, cluster, rng) for cluster in shown}
    wanted = np.unique(np.concatenate([each[each >= 0] for each in members.values()]))
    batches = CenterBatches(
        images, model.img_size, batch_size=len(wanted), workers=0, channels=model.in_chans,
        indices=positions[wanted],
    )  # fmt: skip
    pixels = torch.cat([batch for batch, _ in batches])
    read = [row for row in wanted.tolist() if positions[row] not in batches.bad]
    picture = dict(zip(read, display(pixels), strict=True))
    titles = _titles(found, images, positions)
    table = [
        (titles[cluster], [picture.get(row) for row in members[cluster].tolist()])
        for cluster in shown
    ]
    columns = ["nearest its centre", *[""] * (NEAREST - 1), "at random", *[""] * (ANY - 1)]
    draw_picture_table(table, columns, path, display.note(pixels.dtype), cell_inches=0.95)


def _members(
    found: Clusters, rows: Tensor, cluster: int, rng: np.random.Generator
) -> NDArray[np.int64]:
    """Return the rows to draw of a cluster, -1 where it has no more."""
    members = (found.labels == cluster).nonzero()[:, 0]
    distances = (rows[members] - found.centres[cluster]).square().sum(1)
    ordered = members[distances.argsort(stable=True)].cpu().numpy()
    chosen = np.full(NEAREST + ANY, -1)
    nearest, others = ordered[:NEAREST], rng.permutation(ordered[NEAREST:])[:ANY]
    chosen[: len(nearest)] = nearest
    chosen[NEAREST : NEAREST + len(others)] = others
    return chosen


def _titles(found: Clusters, images: Images, positions: NDArray[np.int64]) -> Sequence[str]:
    """Return the number and the size of each cluster, and its most frequent class if known."""
    clusters, labels = found.labels.cpu().numpy(), images.labels[positions]
    sizes = np.bincount(clusters).tolist()
    if (labels < 0).any():
        return [f"cluster {number}\n{size} images" for number, size in enumerate(sizes)]
    counts, classes = contingency(clusters, labels)
    names = [class_name(images.classes, label) for label in classes]
    return [
        f"cluster {number}\n{size} images\n{count.max() / size:.0%} {names[count.argmax()]}"
        for number, (size, count) in enumerate(zip(sizes, counts, strict=True))
    ]
