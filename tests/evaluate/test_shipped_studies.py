"""The studies that come with FastIMAE: the papers' numbers, and flags that all commands take."""

import re
from pathlib import Path

import pytest

pytest.importorskip("sklearn")
pytest.importorskip("timm")

from fastimae.arguments import parse_training
from fastimae.config import flatten
from fastimae.evaluate.command import options_of
from fastimae.evaluate.options import finetune_recipes, linear
from fastimae.evaluate.options.study import StudyOptions
from fastimae.evaluate.studies.commands import Commands
from fastimae.evaluate.studies.file import read_study, unknown_names
from fastimae.evaluate.studies.shipped import SHIPPED, find_study
from fastimae.evaluate.tasks.study import check

PAPERS = """
imae_table1_cifar10       | baseline           | finetune 90.78   linear 72.47
imae_table1_cifar10       | imae-0             | finetune 91.67   linear 70.53
imae_table1_cifar10       | imae-0.5           | finetune 92.34   linear 72.80
imae_table1_cifar10       | imae-1             | finetune 91.60   linear 77.61
imae_table1_cifar100      | baseline           | finetune 68.66   linear 32.57
imae_table1_cifar100      | imae-0             | finetune 68.34   linear 29.22
imae_table1_cifar100      | imae-0.5           | finetune 69.50   linear 30.11
imae_table1_cifar100      | imae-1             | finetune 69.33   linear 33.39
imae_table1_tiny_imagenet | baseline           | finetune 59.28   linear 19.62
imae_table1_tiny_imagenet | imae-0             | finetune 60.91   linear 18.23
imae_table1_tiny_imagenet | imae-0.5           | finetune 60.58   linear 18.51
imae_table1_tiny_imagenet | imae-1             | finetune 61.13   linear 20.40
imae_table2_cifar10       | baseline           | before 3.5899    after 0.0584
imae_table2_cifar10       | imae_not_distilled | before 0.1384    after 0.0568
imae_table2_cifar10       | imae               | before 0.0331    after 0.0474
imae_table2_cifar100      | baseline           | before 3.0840    after 0.0487
imae_table2_cifar100      | imae_not_distilled | before 0.2999    after 0.0475
imae_table2_cifar100      | imae               | before 0.0312    after 0.0456
imae_table2_tiny_imagenet | baseline           | before 10.38     after 0.0204
imae_table2_tiny_imagenet | imae_not_distilled | before 0.0723    after 0.0363
imae_table2_tiny_imagenet | imae               | before 0.0708    after 0.0352
imae_table2_imagenet      | baseline           | before 13.91     after 0.2004
imae_table2_imagenet      | imae_not_distilled | before 0.8799    after 0.1316
imae_table2_imagenet      | imae               | before 0.2760    after 0.1838
imae_tables3_4_cifar10    | baseline           | finetune 90.78   linear 72.47
imae_tables3_4_cifar10    | imae-0.5           | finetune 92.00
imae_tables3_4_cifar10    | imae-1             | linear 77.61
imae_tables3_4_cifar100   | baseline           | finetune 68.66   linear 32.57
imae_tables3_4_cifar100   | imae-0.5           | finetune 69.50
imae_tables3_4_cifar100   | imae-1             | linear 33.39
imae_tables3_4_tiny_imagenet | baseline        | finetune 59.28   linear 19.62
imae_tables3_4_tiny_imagenet | imae-1          | finetune 61.63   linear 20.40
hierarchical_table1_ratios | ratio-0.1         | linear 47.45
hierarchical_table1_ratios | ratio-0.25        | linear 53.58
hierarchical_table1_ratios | ratio-0.5         | linear 60.07
hierarchical_table1_ratios | ratio-0.75        | linear 67.41
hierarchical_table1_ratios | ratio-0.9         | linear 62.97
hierarchical_table1_units | unit-8             | linear 62.57
hierarchical_table1_units | unit-16            | linear 68.96
hierarchical_table1_units | unit-32            | linear 73.31
hierarchical_table4       | patch8             | linear 62.57
hierarchical_table4       | patch16            | linear 67.41
hierarchical_table4       | patch32            | linear 55.51
hierarchical_table2       | ratio-0.1          | shape_accuracy 13.52
hierarchical_table2       | ratio-0.25         | shape_accuracy 25.45
hierarchical_table2       | ratio-0.5          | shape_accuracy 24.58
hierarchical_table2       | ratio-0.75         | shape_accuracy 25.63
hierarchical_table2       | ratio-0.9          | shape_accuracy 20.14
occlusion_table1          | random_init        | finetune 80.9    finetune,_300_epochs 82.1
occlusion_table1          | mae                | finetune 83.1    psnr 22.2
occlusion_table1          | rmae               | finetune 82.7    psnr 23.7
occlusion_table1          | rmae_dagger        | finetune 82.8    psnr 23.0
occlusion_table1          | rmae_double_dagger | finetune 82.7    psnr 22.9
occlusion_table2          | random_init        | finetune 80.9
occlusion_table2          | mae-100            | finetune 83.1
occlusion_table2          | cmae-100           | finetune 82.9
occlusion_table2          | mae-400            | finetune 83.2
occlusion_table2          | cmae-400           | finetune 83.1
occlusion_table3          | cmae-cls           | finetune 82.5
occlusion_table3          | cmae-average       | finetune 82.6
occlusion_table3          | cmae-patch         | finetune 82.9
occlusion_table3          | cmae-both          | finetune 82.9
occlusion_table4          | mae                | linear 54.5   finetune 83.1   finetune,_10_% 67.5
occlusion_table4          | mae_jitter         | linear 53.4   finetune 83.1   finetune,_10_% 67.3
occlusion_table4          | mae_jitter_visible | linear 54.0   finetune 83.0   finetune,_10_% 67.3
occlusion_table4          | cmae               | linear 41.1   finetune 82.9   finetune,_10_% 66.4
occlusion_table4          | cmae_no_mask_tokens | linear 56.2  finetune 82.6   finetune,_10_% 67.5
occlusion_table4          | cmae_byol          | linear 26.9   finetune 82.8   finetune,_10_% 65.2
occlusion_table4          | cmae_byol_no_mask_tokens | linear 55.2 finetune 82.5 finetune,_10_% 66.1
occlusion_table5          | supervised         | finetune,_200_epochs 81.6
occlusion_table6          | images1_strong     | finetune 82.3
occlusion_table6          | images10           | finetune 81.9
occlusion_table6          | images10_strong    | finetune 82.3
occlusion_table6          | images100          | finetune 82.1
occlusion_table6          | images100_strong   | finetune 82.2
occlusion_table6          | images1000         | finetune 82.2
occlusion_table6          | images1000_strong  | finetune 82.2
occlusion_table6          | random_init        | finetune 80.9    finetune,_300_epochs 82.1
occlusion_table7          | one_class          | finetune 82.2
occlusion_table7          | random             | finetune 82.2
occlusion_table7          | one_per_class      | finetune 82.2
occlusion_table8          | random_init        | linear 6.1    finetune 80.9   finetune,_10_% 34.9
occlusion_table8          | supervised         | linear 33.1   finetune 81.0   finetune,_10_% 52.6
occlusion_table8          | mae                | linear 13.8   finetune 82.2   finetune,_10_% 57.6
occlusion_table8          | rmae               | linear 25.9   finetune 82.1   finetune,_10_% 58.8
occlusion_table8          | cmae               | linear 20.1   finetune 82.1   finetune,_10_% 61.9
"""

# The robustness columns are as the tables print them: IN1K IN-v2 OJN IN-R IN-A IN-S.
ROBUSTNESS = """
hierarchical_table1_ratios_robustness | ratio-0.1  | 47.45 34.72 9.42 14.63 2.00 7.25
hierarchical_table1_ratios_robustness | ratio-0.25 | 53.58 40.34 11.54 18.68 2.49 10.27
hierarchical_table1_ratios_robustness | ratio-0.5  | 60.07 46.71 13.94 22.44 2.89 12.58
hierarchical_table1_ratios_robustness | ratio-0.75 | 67.41 54.23 18.24 25.20 3.76 15.51
hierarchical_table1_ratios_robustness | ratio-0.9  | 62.97 49.52 15.87 19.11 2.76 10.46
hierarchical_table1_units_robustness | unit-8     | 62.57 49.17 13.44 19.42 3.73 10.73
hierarchical_table1_units_robustness | unit-16    | 68.96 55.94 13.73 24.23 6.29 18.81
hierarchical_table1_units_robustness | unit-32    | 73.31 61.35 19.03 27.84 12.69 28.30
hierarchical_table4_robustness | patch8     | 62.57 49.17 13.44 19.42 3.73 10.73
hierarchical_table4_robustness | patch16    | 67.41 54.23 18.24 25.20 3.76 15.51
hierarchical_table4_robustness | patch32    | 55.51 42.35 13.46 18.70 1.89 9.48
"""
COLUMNS = ("linear", "v2", "objectnet", "r", "a", "sketch")


def numbers_of_papers():
    """Return {study: {row: {column: number}}} of the table above."""
    found = {}
    for line in PAPERS.strip().splitlines():
        study, row, cells = map(str.strip, line.split("|"))
        words = [word.replace("_", " ") if "," in word else word for word in cells.split()]
        numbers = dict(zip(words[::2], map(float, words[1::2]), strict=True))
        found.setdefault(study, {})[row] = numbers
    for line in ROBUSTNESS.strip().splitlines():
        study, row, cells = map(str.strip, line.split("|"))
        numbers = dict(zip(COLUMNS, map(float, cells.split()), strict=True))
        found.setdefault(study, {})[row] = numbers
    return found


def commands_of(name, *words):
    line = [name, "--ffcv", "a.beton", "--val", "b.beton", *words]
    options = options_of("study", line)
    assert isinstance(options, StudyOptions)
    return Commands(read_study(find_study(name), options.set), options)


@pytest.fixture
def images(tmp_path, monkeypatch):
    """Be in a folder with files of images, which the checks do not open."""
    monkeypatch.chdir(tmp_path)
    for name in ("a.beton", "b.beton"):
        (tmp_path / name).touch()
    sets = read_study(find_study("hierarchical_table4_robustness")).evaluations["robustness"]
    for name in sets.flags["sets"].value:
        (tmp_path / name.partition("=")[2]).mkdir()
    (tmp_path / "style-transfer-preprocessed-512").mkdir()


def test_the_numbers_are_the_papers():
    found = {name: read_study(find_study(name)).paper for name in SHIPPED}
    assert {name: paper for name, paper in found.items() if paper} == numbers_of_papers()
    ours = [name for name, paper in found.items() if not paper]
    assert ours == [
        "ignore_boundary_cifar10", "labels_or_clusters", "occlusion_figure1", "same_class_ratio",
    ]  # fmt: skip


@pytest.mark.parametrize("name", SHIPPED)
def test_each_has_a_row_and_a_column_for_all_of_them(name):
    commands = commands_of(name)
    assert unknown_names(commands.study, [cell.row for cell in commands.cells]) == []
    about = SHIPPED[name].__doc__
    assert about == commands.study.about and len(about) <= 68 and "\n" not in about
    if commands.study.paper:
        source = r"The paper's numbers: .*\(arXiv 2\d{3}\.\d{5}v1\), tables? \d"
        assert re.match(source, commands.study.conditions)


@pytest.mark.parametrize("name", [name for name in SHIPPED if "tables3_4" not in name])
@pytest.mark.usefixtures("images")
def test_all_commands_are_understood(name):
    """Those of tables 3 and 4 are among those of table 1, see below."""
    commands = commands_of(name)
    runs = commands.runs()
    assert check(commands, runs) == ["missing"] * len(runs)


RUNS_OF_TABLE_1 = ["baseline", "baseline/finetune", "baseline/linear"] + [
    f"imae-{ratio}{evaluation}"
    for ratio in ("0", "0.25", "0.5", "1")
    for evaluation in ("", "/finetune", "/linear")
]


@pytest.mark.parametrize("data", ["cifar10", "cifar100", "tiny_imagenet"])
def test_tables_1_3_and_4_share_their_models(data):
    """So that in one folder none is trained twice."""
    table1 = {run.name: run.words for run in commands_of(f"imae_table1_{data}").runs()}
    assert list(table1) == RUNS_OF_TABLE_1
    table34 = {run.name: run.words for run in commands_of(f"imae_tables3_4_{data}").runs()}
    assert len(table34) == (8 - 1 if data != "tiny_imagenet" else 6)
    assert table34.items() <= table1.items()


def test_clusters_are_made_before_the_models_that_mix_by_them():
    runs = {run.name: run for run in commands_of("labels_or_clusters").runs()}
    file = "study/baseline/eval-kmeans/clusters.npz"
    for name in ("clusters-0.5", "clusters-1"):
        command = runs[name].command
        assert command[command.index("--pseudo_labels") + 1] == file
        assert list(runs).index("baseline/kmeans") < list(runs).index(name)
    assert "--val" not in runs["baseline/kmeans"].command
    assert "--pseudo_labels" not in runs["labels-1"].command


@pytest.mark.parametrize("trained", [[], ["--recipe", "imae_tiny_imagenet"]], ids=str)
@pytest.mark.usefixtures("images")
def test_on_any_images_it_is_table_1_with_crops_as_in_pre_training(trained):
    """All ratios of table 6; fine-tuned with Mixup alone, and probed, as in tables 7 and 8."""
    any_images = commands_of("same_class_ratio", *(["--", *trained] if trained else []))
    runs = {run.name: run.command for run in any_images.runs()}
    assert list(runs) == [
        name.replace("linear", "x").replace("finetune", "linear").replace("x", "finetune")
        for name in RUNS_OF_TABLE_1
    ]
    for name in ("linear", "finetune"):
        task, *flags = runs[f"imae-0.25/{name}"][1:]
        got = vars(options_of(task, flags))
        recipe = (finetune_recipes if name == "finetune" else linear).RECIPES["imae_cifar10"]()
        crop = {"finetune": None, "linear": "center"}[name]
        assert {key: got[key] for key in recipe} == {**recipe, "crop": crop}
    assert task == "msem"


@pytest.mark.parametrize("data", ["cifar10", "cifar100", "tiny_imagenet", "imagenet"])
def test_table_2_has_both_readings_of_its_baseline(data):
    """Section 4.3.1: "vanilla MAE", and "trained without the disentanglement module"."""
    runs = {run.name: run.command for run in commands_of(f"imae_table2_{data}").runs()}
    models = {name: command for name, command in runs.items() if "/" not in name}
    assert list(models) == ["baseline", "no_heads", "imae_not_distilled", "imae"]
    assert [name for name in models if "--no_disentangle" in models[name]] == ["no_heads"]
    assert [name for name in models if "--teacher" in models[name]] == ["imae"]
    epochs = [
        runs[name][-1] for name in runs if "/" in name and "--regression_epochs" in runs[name]
    ]
    assert epochs == (["5000"] * 4 if data == "imagenet" else [])
    measured = options_of("separability", runs["no_heads/separability"][2:])
    assert (measured.protocol, measured.space) == ("paper", "encoder")


def test_the_models_of_the_hierarchical_paper():
    def flags(name, flag):
        runs = [run.command for run in commands_of(name).runs() if "/" not in run.name]
        return [command[command.index(flag) + 1] for command in runs]

    assert flags("hierarchical_table1_ratios", "--mask_ratio") == ["0.1", "0.25", "0.5", "0.75",
                                                                   "0.9"]  # fmt: skip
    assert set(flags("hierarchical_table1_ratios", "--model")) == {"mae_vit_base_patch16"}
    assert flags("hierarchical_table1_units", "--mask_patch_size") == ["8", "16", "32"]
    assert set(flags("hierarchical_table1_units", "--model")) == {"mae_vit_base_patch8"}
    assert flags("hierarchical_table4", "--model") == [
        f"mae_vit_base_patch{side}" for side in (8, 16, 32)
    ]
    assert set(flags("hierarchical_table4", "--mask_patch_size")) == {"None"}


@pytest.mark.parametrize("name", ["table1_ratios", "table1_units", "table4"])
@pytest.mark.usefixtures("images")
def test_robustness_is_of_the_probes_of_the_same_models(name):
    """So that in one folder none is trained twice."""
    probed = {run.name: run.words for run in commands_of(f"hierarchical_{name}").runs()}
    runs = {run.name: run for run in commands_of(f"hierarchical_{name}_robustness").runs()}
    tested = {name: run for name, run in runs.items() if name.endswith("/robustness")}
    assert {name: run.words for name, run in runs.items() if name not in tested} == probed
    for cell, run in ((name.partition("/")[0], run) for name, run in tested.items()):
        options = options_of("robustness", run.command[2:])
        assert options.checkpoint == Path(f"study/{cell}/checkpoint-last.pth")
        assert options.classifier == (Path(f"study/{cell}/eval-linear/checkpoint-best.pth"),)
        assert tuple(options.places()) == COLUMNS[1:] and f"{cell}/linear" in run.needs
        assert "--val" not in run.command and "--ffcv" not in run.command


@pytest.mark.usefixtures("images")
def test_shape_bias_is_of_the_models_of_table_1():
    runs = {run.name: run.words for run in commands_of("hierarchical_table2").runs()}
    table1 = {run.name: run.words for run in commands_of("hierarchical_table1_ratios").runs()}
    assert table1.items() <= runs.items()
    assert {name.partition("/")[2] for name in runs} == {"", "linear", "shapebias"}


def test_the_models_of_the_occlusion_paper():
    def flags(name, *wanted):
        runs = {run.name: run.command for run in commands_of(name).runs() if "/" not in run.name}
        return {name: [flag for flag in wanted if flag in runs[name]] for name in runs}

    assert flags("occlusion_table4", "--no_encoder_mask_tokens", "--color_jitter_on") == {
        "mae": [], "mae_jitter": [], "mae_jitter_visible": ["--color_jitter_on"], "cmae": [],
        "cmae_no_mask_tokens": ["--no_encoder_mask_tokens"], "cmae_byol": [],
        "cmae_byol_no_mask_tokens": ["--no_encoder_mask_tokens"],
    }  # fmt: skip
    assert len(flags("occlusion_table5")) == 1 + 2 * 2**3


@pytest.mark.parametrize("name", [name for name in SHIPPED if name.startswith("occlusion")])
@pytest.mark.usefixtures("images")
def test_the_settings_of_the_occlusion_paper(name):
    """Section 5: batches of 1024 (on 8 GPUs), base learning rates of 3.0e-4 for R-MAE, 1.5e-4 for
    the others, and 1.0e-3 to fine-tune. A rate of 0 is ours, for fresh weights."""
    for run in commands_of(name).runs():
        program, *flags = run.command
        if program == "fastimae-train":
            got = flatten(parse_training(program, flags))
            blr = 0 if got["blr"] == 0 else {"rmae": 3.0e-4}.get(got["objective"], 1.5e-4)
        elif flags[0] == "finetune":
            got, blr = vars(options_of(flags[0], flags[1:])), 1.0e-3
        else:
            continue
        assert (got["batch_size"] * got["accum_iter"] * 8, got["blr"]) == (1024, blr)
