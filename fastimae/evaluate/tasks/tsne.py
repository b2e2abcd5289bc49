"""fastimae-eval tsne: features of images in the plane, by t-SNE after PCA; one model or several.

t-SNE: van der Maaten and Hinton (2008). As in the hierarchical paper (figures 8 and 10, appendix
C.5): PCA to 50 dimensions, a perplexity of 20, and with `--classes 10` ten random classes. Which
classes, how many images and which feature it leaves open: by default at most 2,000 test images, and
the mean of the patches. The paper judges how far classes are apart by eye; silhouettes are ours.

N = images, D = feature width.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.colors import Colormap
from numpy.typing import NDArray
from sklearn.decomposition import PCA
from sklearn.manifold import TSNE, trustworthiness
from sklearn.metrics import silhouette_score
from torch import Tensor

from fastimae.engine.distributed import alone
from fastimae.evaluate.candidates import candidates_of, check_same_images
from fastimae.evaluate.center_batches import CenterBatches
from fastimae.evaluate.differences import labels_of
from fastimae.evaluate.features import extract, resolve_layer, resolve_pool
from fastimae.evaluate.figures.class_choice import named_classes, random_classes
from fastimae.evaluate.images import Images
from fastimae.evaluate.labels.class_names import class_name
from fastimae.evaluate.options.figures import TsneOptions
from fastimae.evaluate.origin import origin_of
from fastimae.evaluate.pages.tables import markdown
from fastimae.evaluate.results import Results, open_results
from fastimae.log import log
from fastimae.models import MaskedAutoencoder
from fastimae.pictures.picture_table import within
from fastimae.pictures.plots import plain_style, plt, save_figure
from fastimae.settings import ConfigError

PICTURE = "tsne.png"
COMPONENTS = 50
NEIGHBOURS = 12
NAMED_CLASSES = 20
FEWEST_IMAGES = 16
PANELS = 4
"""Most panels in a row."""
Points = NDArray[np.float32]


def run(options: TsneOptions) -> None:
    """Draw tsne.png, and write its quality to results.json and the points to points.npz."""
    with open_results(options, "tsne") as results:
        _embed_and_draw(options, results)


def _embed_and_draw(options: TsneOptions, results: Results) -> None:
    device = alone(options.device).device
    candidates = candidates_of(options, device, encoder_only=True)
    check_same_images(candidates)
    first = candidates[0].model
    views = [_view(candidate.model, options) for candidate in candidates]
    origin = origin_of(options.checkpoint, first)
    images = options.val_or_train_images()
    classes = chosen_classes(images, options)
    batches = CenterBatches(
        images, first.img_size, batch_size=options.batch_size, workers=options.worker_count(),
        channels=first.in_chans, indices=chosen_images(images, options, classes),
    )  # fmt: skip
    rows, panels, labels = [], [], np.empty(0, np.int64)
    for candidate, view, label in zip(candidates, views, labels_of(candidates), strict=True):
        features, labels = map(Tensor.numpy, extract(candidate.model, batches, device, **view))
        _check_count(len(features))
        points, numbers = embed(features, labels, options.perplexity, options.seed)
        apart = numbers.get("silhouette_features")
        panels.append((label if apart is None else f"{label}\nsilhouette {apart:.2f}", points))
        rows.append({"model": candidate.name, **numbers})
    draw(panels, labels, images.classes, results.picture(PICTURE))
    _save(rows, panels, labels, [class_name(images.classes, label) for label in classes], results,
          origin)  # fmt: skip


def _view(model: MaskedAutoencoder, options: TsneOptions) -> dict[str, Any]:
    """Return which features of a model are drawn: arguments of `extract`. Raises ConfigError."""
    pool = resolve_pool(model, options.pool)
    return {"pool": pool, "layer": resolve_layer(model, options.layer)}


def chosen_classes(images: Images, options: TsneOptions) -> list[int]:
    """Return the labels of the classes to draw; empty: all images. Raises ConfigError."""
    if options.class_names:
        return named_classes(images, options.class_names)
    if options.classes is None:
        return []
    labels = random_classes(images, options.classes, options.seed)
    log.info("classes: %s", ", ".join(class_name(images.classes, label) for label in labels))
    return labels


def chosen_images(
    images: Images, options: TsneOptions, classes: Sequence[int]
) -> NDArray[np.int64]:
    """Choose up to --samples images at random, of these classes, or of all if there are none.

    Raises ConfigError if they are too few.
    """
    rng = np.random.default_rng(options.seed)
    of_classes = np.flatnonzero(np.isin(images.labels, classes)) if classes else len(images)
    chosen = rng.permutation(of_classes)[: options.samples]
    _check_count(len(chosen))
    return np.sort(chosen)


def _check_count(images: int) -> None:
    if images < FEWEST_IMAGES:
        raise ConfigError(f"t-SNE needs {FEWEST_IMAGES} images or more, not {images}: --samples")


def embed(
    features: NDArray[np.float32], labels: NDArray[np.int64], perplexity: float, seed: int
) -> tuple[Points, dict[str, float | int]]:
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
    panels: Sequence[tuple[str, Points]],
    labels: NDArray[np.int64],
    classes: Sequence[str] | None,
    path: Path,
) -> None:
    """Draw a panel for each model, coloured by class, with a legend if there are at most 20.

    panels: a title, which is left out of a single one, and points [N, 2].
    """
    present = np.unique(labels)
    columns = min(len(panels), PANELS)
    side = 4.9 if len(panels) == 1 else 3.4
    with plain_style():
        figure, axes = plt.subplots(
            -(-len(panels) // columns), columns, squeeze=False, layout="constrained",
            figsize=(side * columns + 2.1, (side + 0.5) * -(-len(panels) // columns)),
        )  # fmt: skip
        for axis, (title, points) in zip(axes.flat, panels, strict=False):
            _scatter(axis, points, labels, classes)
            axis.set(xticks=[], yticks=[])
            axis.set_title(within(title, side), fontsize=8)
        for axis in axes.flat[len(panels) :]:
            axis.set_visible(False)
        about = f"t-SNE of the features of {len(labels)} images"
        if len(panels) == 1:
            axes[0, 0].set_title(about)
        else:
            figure.suptitle(about, fontsize="medium")
        if 1 < len(present) <= NAMED_CLASSES:
            figure.legend(*axes[0, 0].get_legend_handles_labels(), loc="outside right center",
                          markerscale=2)  # fmt: skip
        save_figure(figure, path)


def _scatter(
    axis: Any, points: Points, labels: NDArray[np.int64], classes: Sequence[str] | None
) -> None:
    present = np.unique(labels)
    colors = _color_map(len(present))
    for number, label in enumerate(present):
        # Colour maps of separate colours take a number, continuous ones a share.
        color = colors(number if len(present) <= NAMED_CLASSES else number / len(present))
        x, y = points[labels == label].T
        axis.scatter(x, y, s=7, color=color, label=class_name(classes, label), alpha=0.8)


def _color_map(classes: int) -> Colormap:
    name = "tab10" if classes <= 10 else "tab20" if classes <= NAMED_CLASSES else "gist_rainbow"
    return plt.get_cmap(name)


def _save(
    rows: Sequence[dict[str, Any]],
    panels: Sequence[tuple[str, Points]],
    labels: NDArray[np.int64],
    classes: Sequence[str],
    results: Results,
    origin: Mapping[str, Any],
) -> None:
    """Write results.json and points.npz; those of several models name each."""
    points = [of_model for _, of_model in panels]
    numbers: dict[str, Any] = {"classes": list(classes)} if classes else {}
    arrays = {"points": points[0], "labels": labels}
    if len(rows) == 1:
        numbers |= {key: value for key, value in rows[0].items() if key != "model"}
    else:
        numbers["table"] = list(rows)
        arrays |= {"points": np.stack(points), "models": [row["model"] for row in rows]}
        print(markdown(rows))
    np.savez_compressed(results.folder / "points.npz", **arrays)
    path = results.save(numbers, origin=origin)
    log.info("%s and %s beside it", path, PICTURE)
