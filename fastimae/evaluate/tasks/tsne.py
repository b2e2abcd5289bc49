"""fastimae-eval tsne: features of images in the plane, by t-SNE after PCA.

t-SNE: van der Maaten and Hinton (2008). N = images, D = feature width.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.colors import Colormap
from numpy.typing import NDArray
from sklearn.decomposition import PCA
from sklearn.manifold import TSNE, trustworthiness
from sklearn.metrics import silhouette_score
from torch import Tensor

from fastimae.engine.distributed import alone
from fastimae.evaluate.center_batches import CenterBatches
from fastimae.evaluate.features import extract, load_encoder
from fastimae.evaluate.images import random_indices
from fastimae.evaluate.options.figures import TsneOptions
from fastimae.evaluate.origin import origin_of
from fastimae.evaluate.results import Results, open_results
from fastimae.log import log
from fastimae.pictures.plots import plain_style, plt, save_figure
from fastimae.settings import ConfigError

PICTURE = "tsne.png"
COMPONENTS = 50
NEIGHBOURS = 12
NAMED_CLASSES = 20
FEWEST_IMAGES = 16


def run(options: TsneOptions) -> None:
    """Draw tsne.png, and write its quality to results.json and the points to points.npz."""
    with open_results(options, "tsne") as results:
        _embed_and_draw(options, results)


def _embed_and_draw(options: TsneOptions, results: Results) -> None:
    device = alone(options.device).device
    model = load_encoder(options.checkpoint, device, **options.of_model())
    origin = origin_of(options.checkpoint, model)
    images = options.val_or_train_images()
    _check_count(min(options.samples, len(images)))
    chosen = random_indices(images, options.samples, np.random.default_rng(options.seed))
    batches = CenterBatches(
        images, model.img_size, batch_size=options.batch_size, workers=options.worker_count(),
        channels=model.in_chans, indices=np.sort(chosen),
    )  # fmt: skip
    features, labels = map(Tensor.numpy, extract(model, batches, device, options.pool))
    _check_count(len(features))
    points, numbers = embed(features, labels, options.perplexity, options.seed)
    draw(points, labels, images.classes, results.picture(PICTURE))
    np.savez_compressed(results.folder / "points.npz", points=points, labels=labels)
    path = results.save(numbers, origin=origin)
    log.info("%s and %s beside it", path, PICTURE)


def _check_count(images: int) -> None:
    if images < FEWEST_IMAGES:
        raise ConfigError(f"t-SNE needs {FEWEST_IMAGES} images or more, not {images}: --samples")


def embed(
    features: NDArray[np.float32], labels: NDArray[np.int64], perplexity: float, seed: int
) -> tuple[NDArray[np.float32], dict[str, float | int]]:
    """Return points [N, 2] for features [N, D], and how faithful they are.

    "trustworthiness": share of neighbourhoods that are kept, 0..1. "silhouette_features",
    "silhouette_points": separation of the classes (-1..1) before and after, if there are two or
    more.
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
    """Return the first 50 principal components [N, 50], or all if there are fewer."""
    count = min(COMPONENTS, *features.shape)
    return PCA(count, svd_solver="full").fit_transform(features)


def draw(
    points: NDArray[np.float32],
    labels: NDArray[np.int64],
    classes: Sequence[str] | None,
    path: Path,
) -> None:
    """Draw points [N, 2], coloured by class, with a legend if there are at most 20 classes."""
    present = np.unique(labels)
    colors = _color_map(len(present))
    with plain_style():
        figure, axis = plt.subplots(figsize=(7, 5.4), layout="constrained")
        for number, label in enumerate(present):
            name = classes[label] if classes and 0 <= label < len(classes) else f"class {label}"
            # Colour maps of separate colours take a number, continuous ones a share.
            color = colors(number if len(present) <= NAMED_CLASSES else number / len(present))
            x, y = points[labels == label].T
            axis.scatter(x, y, s=7, color=color, label=name, alpha=0.8)
        axis.set(xticks=[], yticks=[], title=f"t-SNE of the features of {len(points)} images")
        if 1 < len(present) <= NAMED_CLASSES:
            axis.legend(loc="center left", bbox_to_anchor=(1, 0.5), markerscale=2)
        save_figure(figure, path)


def _color_map(classes: int) -> Colormap:
    name = "tab10" if classes <= 10 else "tab20" if classes <= NAMED_CLASSES else "gist_rainbow"
    return plt.get_cmap(name)
