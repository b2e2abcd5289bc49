"""No text of a figure is cut off at its edges, however long names and notes are."""

import numpy as np
import pytest
import torch
from figure_texts import texts_of, texts_outside
from matplotlib.figure import Figure
from tiny import tiny_model
from undrawn import save_pixel

pytest.importorskip("sklearn")

from fastimae.evaluate.figures import attention_pictures, similarity_maps, weight_plots
from fastimae.evaluate.figures.weight_measures import matrices_of
from fastimae.evaluate.mixing import separability_figures
from fastimae.evaluate.studies import plot
from fastimae.evaluate.studies.file import read_study
from fastimae.evaluate.studies.table import Row
from fastimae.evaluate.tasks import mixtureprobe, tsne
from fastimae.objectives.pictures import LEAK_NOTE
from fastimae.pictures import plots
from fastimae.pictures.picture_table import draw_picture_table

PICTURE = torch.zeros(32, 32, 3, dtype=torch.uint8)
NAMES = ("mae", "imae", "an_experiment_with_a_name_of_fifty_characters_or_so", "group/run_17")
NOTE = "MSE per element of latents in encoder space (width 1024), all tokens but one. " * 3
ROWS = [
    {"model": name, "kind": "i-MAE, not distilled", "mix_ratio": ratio, "subordinate": 5 * ratio,
     "dominant": ratio, "mse_before": 1 + ratio, "mse_after": ratio, "mse_after_trained": ratio,
     "unexplained": ratio}
    for name in NAMES for ratio in (0.1, 0.2, 0.3)
]  # fmt: skip


def table(columns, cell_inches):
    rows = [("subordinate", [PICTURE] * columns)] * 2
    titles = [f"subordinate reconstructed {number}" for number in range(columns)]
    return lambda path: draw_picture_table(rows, titles, path, LEAK_NOTE * 2, cell_inches)


def weights():
    model = tiny_model(depth=1)
    model.fresh_decoder = False
    return matrices_of(model)


def views(path):
    view = attention_pictures.View(torch.rand(16), torch.rand(16) > 0.5, (4, 4), (1, 1), 11)
    rows = [(PICTURE, [view] * len(LABELS))]
    attention_pictures.draw_side_by_side(rows, LABELS, 0.6, path)


def points(count):
    rows = np.random.default_rng(0).normal(size=(40, 2))
    panels = [(label, rows) for label in LABELS[:count]]
    names = ["African hunting dog, hyena dog, Cape hunting dog, Lycaon pictus"] * 20
    return lambda path: tsne.draw(panels, np.arange(40) % 20, names, path)


def draw_study(path, x):
    """Draw a study of long names; x: the flag of its plot, None for bars."""
    models = "models: {a: {grid: {model: [x, y]}}}\nevaluations: {knn: , linear: }"
    file = path.with_suffix(".yaml")
    file.write_text(f"about: What {' and '.join(NAMES)} do\n{models}\n")
    study = read_study(file, [f"plot={{x: {x}}}"] if x else [])
    rows = [
        Row(f"{NAMES[2]}-{name}", NAMES[2], {"model": name}, {}, {"knn": [50.0], "linear": [3.5]},
            {"knn": 60.5})
        for name in NAMES[1:3]
    ]  # fmt: skip
    plot.draw(
        study, rows, ["Ours: " + " --flag value" * 30, "The paper's: another sentence."], path
    )


def maps(count, ratios):
    grids = [np.linspace(0.2, 1, layers * ratios).reshape(layers, ratios) for layers in (2, 12, 24)]
    panels = list(zip(LABELS, [*grids, np.full((3, ratios), np.nan)], strict=True))[:count]
    return lambda path: similarity_maps.draw_maps(panels, np.arange(1, ratios + 1) / 10, path, NOTE)


LABELS = [f"{name}\ni-MAE, not distilled\nsame_class_ratio 0.25" for name in NAMES]
LAYERS = [
    {"model": name, "layer": layer, "near_zero": 0.1, "hoyer": 0.2, "kurtosis": -1.0,
     "entropy_bits": 3.0, "distance_pixels": 9.0, "patch_share": 0.5}
    for name in NAMES for layer in range(12)
]  # fmt: skip
DRAW = {
    "a table of one narrow column": table(1, 1.1),
    "a table of small pictures": table(4, 0.9),
    "mixtureprobe": lambda path: mixtureprobe.draw(ROWS, path),
    "separability": lambda path: separability_figures.draw(ROWS, path, NOTE),
    "separability at one ratio": lambda path: separability_figures.draw(
        [row | {"mse_after_held_out": 9.0} for row in ROWS[::3]], path, NOTE
    ),
    "a study of lines": lambda path: draw_study(path, "model"),
    "a study of bars": lambda path: draw_study(path, None),
    "attention": lambda path: attention_pictures.draw(
        PICTURE, torch.rand(2, 1, 16), [0, 11], (4, 4), (1, 1), path
    ),
    "attention of models": views,
    "width of attention": lambda path: attention_pictures.draw_widths(LAYERS, 0.6, path),
    "cka of a model at one ratio": maps(1, 1),
    "cka of models": maps(4, 9),
    "means of cka": lambda path: similarity_maps.draw_means(
        [row | {"masked": row["mix_ratio"], "cka": row["subordinate"]} for row in ROWS], path, NOTE
    ),
    "tsne": points(1),
    "tsne of two models": points(2),
    "tsne of models": points(4),
    "weights": lambda path: weight_plots.draw_layers(weights(), path),
    "weights of models": lambda path: weight_plots.draw_models(
        dict.fromkeys([label.replace("\n", ", ") for label in LABELS], weights()), path
    ),
    "sparsity": lambda path: weight_plots.draw_sparsity(LAYERS, path),
}  # fmt: skip


@pytest.mark.parametrize("name", DRAW)
def test_all_texts_are_within_the_figure(name, drawn_figures, tmp_path, monkeypatch):
    monkeypatch.setattr(Figure, "savefig", save_pixel)  # laid out, which places the texts
    DRAW[name](tmp_path / "figure.png")
    (figure,) = drawn_figures
    assert plots.plt.get_fignums() == [figure.number]  # none is left open
    figure.draw_without_rendering()
    assert texts_outside(figure) == [] and len(texts_of(figure)) > 2
