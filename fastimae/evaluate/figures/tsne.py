"""Features of images in the plane: t-SNE (van der Maaten and Hinton, 2008) after PCA."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from sklearn.decomposition import PCA
from sklearn.manifold import TSNE, trustworthiness
from sklearn.metrics import silhouette_score

from fastimae.engine.distributed import alone
from fastimae.evaluate.encoder import Pool, extract, load_encoder
from fastimae.evaluate.figures.plots import plain_style, plt, save_figure
from fastimae.evaluate.images import center_batches
from fastimae.evaluate.options import EvalOptions, results_folder
from fastimae.evaluate.origin import origin_of
from fastimae.evaluate.results import forget_results, save_results
from fastimae.log import log
from fastimae.settings import ConfigError, PositiveFloat, PositiveInt

PICTURE = "tsne.png"
COMPONENTS = 50
NEIGHBOURS = 12
NAMED_CLASSES = 20
LEAST = 16


@dataclasses.dataclass(kw_only=True)
class TsneOptions(EvalOptions):
    """Features of images as points in the plane, coloured by class."""

    samples: PositiveInt = 2000
    """Images, drawn at random."""
    pool: Pool = "avg"
    """The class token (cls) or the mean of the patches (avg)."""
    perplexity: PositiveFloat = 30.0
    """t-SNE's: about how many neighbours a point has; lowered for few images."""


def run(options: TsneOptions) -> None:
    """Draws tsne.png; writes its quality to results.json and the points to points.npz."""
    with results_folder(options, "tsne") as folder:
        _embed_and_draw(options, folder)


def _embed_and_draw(options: TsneOptions, folder: Path) -> None:
    device = alone(options.device).device
    model = load_encoder(options.checkpoint, device, **options.of_model())
    origin = origin_of(options.checkpoint, model)
    images = options.val_images() if options.val else options.train_images()
    _check_count(min(options.samples, len(images)))
    order = np.random.default_rng(options.seed).permutation(len(images))[: options.samples]
    batches = center_batches(
        images, model.img_size, batch_size=options.batch_size, workers=options.num_workers,
        channels=model.in_chans, indices=np.sort(order),
    )  # fmt: skip
    tensors = extract(model, batches, device, options.pool)
    features, labels = (tensor.numpy() for tensor in tensors)
    _check_count(len(features))
    points, numbers = embed(features, labels, options.perplexity, options.seed)
    forget_results(folder)
    draw(points, labels, images.classes, folder / PICTURE)
    np.savez_compressed(folder / "points.npz", points=points, labels=labels)
    path = save_results(folder, "tsne", numbers, options, origin=origin, pictures=[PICTURE])
    log.info("%s and %s beside it", path, PICTURE)


def _check_count(images: int) -> None:
    if images < LEAST:
        raise ConfigError(f"t-SNE needs {LEAST} images or more, not {images}: --samples")


def embed(
    features: NDArray[np.float32], labels: NDArray[np.int64], perplexity: float, seed: int
) -> tuple[NDArray[np.float32], dict[str, float | int]]:
    """Points [N, 2] of features [N, D], and what they are worth.

    "trustworthiness": share of neighbourhoods kept, 0..1. "silhouette_features",
    "silhouette_points": how far classes are apart (-1..1) before and after, where there are two
    or more of them.
    """
    reduced = principal_components(features)
    perplexity = min(perplexity, (len(features) - 1) / 3)
    model = TSNE(perplexity=perplexity, init="pca", random_state=seed)
    points = model.fit_transform(reduced)
    neighbours = min(NEIGHBOURS, len(features) // 2 - 1)
    numbers = {
        "images": len(points),
        "perplexity": perplexity,
        "kl_divergence": float(model.kl_divergence_),
        "trustworthiness": float(trustworthiness(features, points, n_neighbors=neighbours)),
    }
    if 2 <= len(np.unique(labels)) < len(labels):
        numbers["silhouette_features"] = float(silhouette_score(features, labels))
        numbers["silhouette_points"] = float(silhouette_score(points, labels))
    return points, numbers


def principal_components(features: NDArray[np.float32]) -> NDArray[np.float32]:
    """The first 50 (or as many as there are) principal components [N, 50]."""
    count = min(COMPONENTS, *features.shape)
    return PCA(count, svd_solver="full").fit_transform(features)


def draw(
    points: NDArray[np.float32],
    labels: NDArray[np.int64],
    classes: Sequence[str] | None,
    path: Path,
) -> None:
    """points: [N, 2]. Classes are named where they are few."""
    present = np.unique(labels)
    colors = plt.get_cmap("tab10" if len(present) <= 10 else "tab20" if len(present) <= 20
                          else "gist_rainbow")  # fmt: skip
    with plain_style():
        figure, axis = plt.subplots(figsize=(7, 5.4), layout="constrained")
        for place, label in enumerate(present):
            named = classes[label] if classes and 0 <= label < len(classes) else f"class {label}"
            share = place if len(present) <= NAMED_CLASSES else place / len(present)
            own = points[labels == label]
            axis.scatter(own[:, 0], own[:, 1], s=7, color=colors(share), label=named, alpha=0.8)
        axis.set(xticks=[], yticks=[], title=f"t-SNE of the features of {len(points)} images")
        if 1 < len(present) <= NAMED_CLASSES:
            axis.legend(loc="center left", bbox_to_anchor=(1, 0.5), markerscale=2)
        save_figure(figure, path)
