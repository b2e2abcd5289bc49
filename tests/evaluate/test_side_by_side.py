"""Reconstructions of several models side by side: the same images, what is fed, and the figures."""

import json

import pytest
import torch
from figure_texts import texts_of, texts_outside
from matplotlib.figure import Figure
from tiny import save_run, tiny_model
from toy_images import save_colours
from undrawn import save_pixel, undrawn

from fastimae.engine.checkpoint import load_checkpoint, save_checkpoint
from fastimae.evaluate.candidates import load_candidates
from fastimae.evaluate.differences import difference_of
from fastimae.evaluate.images import open_images
from fastimae.evaluate.mixing.mixtures import PairBatches
from fastimae.evaluate.mixing.reconstruction import reconstruct
from fastimae.evaluate.mixing.subjects import row_titles, subjects_of
from fastimae.evaluate.options.figures import ReconstructOptions
from fastimae.evaluate.pages.comparison import evaluation_numbers
from fastimae.evaluate.pages.runs import read_run
from fastimae.kernels.reference import patchify

pytest.importorskip("torchmetrics")
pytest.importorskip("piq")
from fastimae.evaluate.tasks import reconstruct as task


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    return save_colours(tmp_path_factory.mktemp("colours") / "data", 4)


@pytest.fixture
def study(tmp_path):
    """The models of the i-MAE paper's figure 4, and one that was trained on mixtures headless."""
    save_run(tmp_path / "mae", tiny_model())
    save_run(tmp_path / "plain", tiny_model(heads=2))
    save_run(tmp_path / "distilled", tiny_model(heads=2), teacher="mae.pth")
    save_run(tmp_path / "headless", tiny_model(), objective="imae", disentangle=False)
    return tmp_path


def options(study, images, first, *others, **changes):
    paths = [study / name / "checkpoint-last.pth" for name in (first, *others)]
    return ReconstructOptions(**{
        "checkpoint": paths[0], "others": tuple(paths[1:]), "data_path": images, "device": "cpu",
        "num_workers": 0, "batch_size": 6, "samples": 12, "pictures": 1, "mask_ratios": (0.75,),
        "mix_ratios": (0.3,), "output_dir": study / "out", **changes,
    })  # fmt: skip


def content_of(study):
    return json.loads((study / "out" / "results.json").read_text())


def whole(table):
    return [row for row in table if row["view"] == "whole"]


@undrawn()
def test_a_mae_is_fed_both_beside_models_of_mixtures(study, images, capsys):
    task.run(options(study, images, "mae", "plain", "distilled", "headless"))
    content = content_of(study)
    rows = whole(content["numbers"]["table"])
    both = ["subordinate", "dominant"]
    wanted = {
        ("mae", "mixture"): [*both, "mixture"], ("mae", "image"): ["image"],
        ("plain", "mixture"): both, ("distilled", "mixture"): both,
        ("headless", "mixture"): [*both, "mixture"],
    }  # fmt: skip
    found = {}
    for row in rows:
        found.setdefault((row["model"], row["input"]), []).append(row["branch"])
    assert found == wanted and list(found) == list(wanted)
    kinds = {row["model"]: row["kind"] for row in rows}
    assert kinds["plain"] == "i-MAE, not distilled" and kinds["distilled"] == "i-MAE, distilled"
    assert content["pictures"] == ["models.png", "measures.png"]
    assert "| headless | mixture | 0.75 | 0.75 | 8 | 0.3 | mixture |" in capsys.readouterr().out


@undrawn()
def test_numbers_are_those_of_what_each_model_makes_of_the_same_mixtures(study, images):
    """Against the model's own forward pass of normalised mixtures, and means in float64."""
    task.run(options(study, images, "plain", "mae"))
    rows = whole(content_of(study)["numbers"]["table"])
    model = load_candidates([study / "mae" / "checkpoint-last.pth"], torch.device("cpu"))[0].model
    squares = {branch: [] for branch in ("subordinate", "dominant", "mixture", "image")}
    for batch in PairBatches(open_images(images), model, samples=12, batch_size=6, workers=0):
        result = reconstruct(model, batch, 0.75, 0.3)
        mixed = 0.3 * batch.images.double() + 0.7 * batch.images[batch.partner].double()
        normalised = (mixed / 255 - torch.tensor(model.mean)) / torch.tensor(model.std)
        mask = batch.mask(model, 0.75, 1)
        with torch.no_grad():
            _, pred, masked = model(normalised.float().permute(0, 3, 1, 2), mask=mask)
        pixels = pred * torch.tensor(model.std).repeat(64) + torch.tensor(model.mean).repeat(64)
        shown = patchify(result.views["pasted"]["mixture"], 8)
        hidden = masked.bool()
        assert (shown[hidden] - (255 * pixels[hidden]).clamp(0, 255)).abs().max() < 0.52
        made = result.views["whole"]["mixture"]
        clean = reconstruct(model, batch, 0.75).views["whole"]["image"]
        truths = {"subordinate": batch.images, "dominant": batch.images[batch.partner],
                  "mixture": mixed.round(), "image": batch.images}  # fmt: skip
        for branch, truth in truths.items():
            picture = clean if branch == "image" else made
            error = (picture.double() - truth.double()) / 255
            squares[branch].append(error.square().mean((1, 2, 3)))
    of_mae = {row["branch"]: row["mse"] for row in rows if row["model"] == "mae"}
    for branch, parts in squares.items():
        wanted = float(torch.cat(parts).mean())
        assert of_mae[branch] == pytest.approx(wanted, rel=2e-3 if branch == "mixture" else 1e-5)


@undrawn()
def test_a_row_is_what_the_model_has_alone(study, images):
    """Other models beside it change neither its images nor their partners nor its masks."""
    task.run(options(study, images, "plain", mask_ratios=(0.5, 0.75), mix_ratios=(0.1, 0.3)))
    alone = content_of(study)["numbers"]["table"]
    both = options(study, images, "mae", "plain", mask_ratios=(0.5, 0.75), mix_ratios=(0.1, 0.3))
    task.run(both)
    beside = [r for r in content_of(study)["numbers"]["table"] if r["model"] == "plain"]
    assert [{k: row[k] for k in alone[0]} for row in beside] == alone


@undrawn()
def test_one_headless_model_of_mixtures_is_fed_them(study, images):
    task.run(options(study, images, "headless", mix_ratios=(0.1, 0.3), mask_ratios=(0.0, 0.75)))
    content = content_of(study)
    table = content["numbers"]["table"]
    assert {row["branch"] for row in table} == {"subordinate", "dominant", "mixture"}
    assert content["pictures"] == [
        "over_mask_ratio.png", "over_mix_ratio.png", "every_ratio.png", "quality.png"
    ]  # fmt: skip


@undrawn()
def test_a_head_without_a_target_is_neither_drawn_nor_measured(study, images):
    save_run(study / "half", tiny_model(heads=2), targets="dominant")
    task.run(options(study, images, "half", mix_ratios=(0.1, 0.3), mask_ratios=(0.0, 0.75)))
    assert {row["branch"] for row in content_of(study)["numbers"]["table"]} == {"dominant"}
    task.run(options(study, images, "half", "plain", "mae"))
    rows = content_of(study)["numbers"]["table"]
    assert {row["branch"] for row in rows if row["model"] == "half"} == {"dominant"}
    assert {row["branch"] for row in rows if row["model"] == "plain"} == {"subordinate", "dominant"}


def test_maes_alone_are_fed_images_and_mixing_ratios_are_said_to_be_idle(study, images, caplog):
    save_run(study / "other", tiny_model(), mask_ratio=0.5)
    task.run(options(study, images, "mae", "other", mask_ratios=(0.0, 0.5, 0.75)))
    content = content_of(study)
    assert {row["branch"] for row in content["numbers"]["table"]} == {"image"}
    assert content["pictures"] == ["models.png", "measures.png", "quality.png"]
    assert any("--mix_ratios has no effect" in line for line in caplog.messages)


@undrawn()
def test_a_comparing_page_has_every_number_of_every_model(study, images):
    save_run(study / "run", tiny_model(heads=2))
    (study / "run" / "log.txt").write_text('{"epoch": 0, "train_loss": 1.0}\n')
    given = options(study, images, "run", "mae", output_dir=study / "run" / "eval-reconstruct")
    task.run(given)
    table = json.loads((given.output_dir / "results.json").read_text())["numbers"]["table"]
    _, details = evaluation_numbers(read_run(study / "run"))
    numbers = [key for key in details if " mse (" in key]
    assert len(numbers) == len(table) == 4 + 6 + 2


@pytest.mark.parametrize(
    ("trainings", "difference", "labels"),
    [
        ([{"mask_ratio": 0.1}, {"mask_ratio": 0.75}], "mask_ratio", ["trained 10% masked", "75%"]),
        ([{"mask_patch_size": 16}, {}], "mask_patch_size", ["mask unit 16 px", "mask unit 8 px"]),
        ([{"patch_size": 16}, {"patch_size": 8}], "patch_size", ["patch 16 px", "patch 8 px"]),
        ([{"same_class_ratio": r} for r in (0.0, 1.0)], "same_class_ratio", ["r = 0", "r = 1"]),
        ([{"same_class_ratio": 0.5}, {}], None, ["a (MAE)", "b (MAE)"]),
        ([{"mask_ratio": 0.5}, {"mask_ratio": 0.5}], None, ["a (MAE)", "b (MAE)"]),
        ([{"mask_ratio": 0.5}], None, ["a (MAE)"]),
        ([{"model": "tiny"}, {"model": "base"}], "model", ["a (MAE), tiny", "b (MAE), base"]),
    ],
)  # fmt: skip
def test_what_tells_trainings_apart_is_found(tmp_path, trainings, difference, labels):
    paths = []
    for name, settings in zip("abc", trainings, strict=False):
        patch_size = settings.pop("patch_size", 8)
        path = save_run(tmp_path / name, tiny_model(patch_size=patch_size))
        content = load_checkpoint(path)
        content["args"] |= settings
        save_checkpoint(path, content)
        paths.append(path)
    candidates = load_candidates(paths, torch.device("cpu"))
    assert difference_of(candidates) == difference
    found = row_titles(subjects_of(candidates, None))
    assert len(found) == len(labels)
    assert all(part in label for part, label in zip(labels, found, strict=True))


@pytest.mark.parametrize("kind", ["by name", "by training"])
def test_all_texts_of_the_figures_are_within_them(study, images, drawn_figures, kind, monkeypatch):
    monkeypatch.setattr(Figure, "savefig", save_pixel)  # laid out, which places the texts
    names = ["an_experiment_with_a_name_of_fifty_characters_or_so", "group/run_17", "mae"]
    for name, ratio in zip(names, (0.5, 0.6, 0.75), strict=True):
        model = tiny_model(heads=1 if name == "mae" else 2, norm_pix_loss=True)
        settings = {"mask_ratio": ratio} if kind == "by training" else {}
        save_run(study / name, model, **settings)
    task.run(options(study, images, *names, mask_ratios=(0.0, 0.5, 0.75), samples=4))
    assert len(drawn_figures) == 3
    for figure in drawn_figures:
        figure.draw_without_rendering()
        assert texts_outside(figure) == [] and len(texts_of(figure)) > 6


@undrawn()
def test_lines_of_figures_are_the_numbers_of_the_table(study, images, drawn_figures):
    for name, ratio in (("a", 0.25), ("b", 0.75), ("c", 0.5)):
        save_run(study / name, tiny_model(), mask_ratio=ratio)
    task.run(options(study, images, "a", "b", "c", mask_ratios=(0.0,)))
    table = content_of(study)["numbers"]["table"]
    _, measures = drawn_figures
    titles = ["PSNR (dB)", "SSIM", "FSIM", "negative MSE"]
    assert [axis.get_title() for axis in measures.axes] == titles
    for axis, name in zip(measures.axes, ("psnr", "ssim", "fsim", "mse"), strict=True):
        (line,) = axis.lines
        of = {row["model"]: -row[name] if name == "mse" else row[name] for row in table}
        assert list(line.get_ydata()) == [of["a"], of["c"], of["b"]]
        ticks = [text.get_text() for text in axis.get_xticklabels()]
        assert ticks == ["0.25", "0.5", "0.75"]
        assert axis.get_xlabel() == "masking ratio of the training"
