"""Robustness: sets of flat colours, and classifiers that know which class has which colour."""

import json
import shutil

import numpy as np
import pytest
import torch
from colour_classifiers import palette, save_fine_tuned, save_flat, save_probe, save_probe_of
from ranks_in_threads import in_two_ranks
from tiny import HEADS, save_run, tiny_model
from toy_images import save_splits

pytest.importorskip("timm")
pytest.importorskip("sklearn")

from fastimae.cli import convert, evaluate
from fastimae.engine.checkpoint import load_checkpoint, save_checkpoint
from fastimae.engine.checkpoint_file import CLASSES
from fastimae.engine.distributed import ALONE
from fastimae.evaluate.labels.attentive import attentive_probe
from fastimae.evaluate.options.robustness import RobustnessOptions
from fastimae.evaluate.robustness.classes import categories, imagenet, objectnet, released
from fastimae.evaluate.robustness.classifiers import load_classifiers
from fastimae.evaluate.robustness.scoring import counted
from fastimae.evaluate.robustness.sets import open_set
from fastimae.evaluate.tasks.robustness import measure

QUICK = ["--num_workers", "0", "--device", "cpu", "--precision", "fp32", "--batch_size", "64"]
FEW = ["teapot", "apple", "mug", "zebra", "boat", "kite"]
COLOURS = palette(FEW)


def run(*flags):
    return evaluate(["robustness", *map(str, flags), *QUICK])


def results_of(folder):
    return json.loads((folder / "results.json").read_text())


def table_of(folder):
    rows = results_of(folder)["numbers"]["table"]
    return {(row["classifier"], row["set"]): row for row in rows}


def refused(capsys, *words):
    line = capsys.readouterr().err.strip().splitlines()[-1]
    return line.startswith("fastimae-eval: error:") and all(str(word) in line for word in words)


def save_few(root, shown=None, per_class=1):
    """Save a folder for each of FEW; shown: the class whose colour another one's images have."""
    for name in FEW:
        for number in range(per_class):
            save_flat(root / name / f"{number}.png", COLOURS[(shown or {}).get(name, name)])
    return root


def test_the_lists_are_those_of_the_publications():
    assert len(objectnet()) == 313 and len(imagenet()) == len(set(imagenet())) == 1000
    mapped = [classes for classes in objectnet().values() if classes]
    shown = [name for classes in mapped for name in classes]
    assert len(mapped) == 113 and len(shown) == len(set(shown)) and set(shown) <= set(imagenet())
    assert objectnet()["banana"] == ("n07753592",) and objectnet()["scissors"] == ()
    assert objectnet()["bicycle"] == ("n03792782", "n02835271")
    assert len(categories()) == 16
    members = [name for classes in categories().values() for name in classes]
    assert len(members) == len(set(members)) == 207 and set(members) <= set(imagenet())
    assert len(categories()["dog"]) == 109 and categories()["knife"] == ("n03041632",)
    assert all(len(released(name)) == 200 and released(name) <= set(imagenet()) for name in "ra")
    assert released("v2") == frozenset()


@pytest.fixture(autouse=True)
def sketch(monkeypatch, request):
    """Leave out the picture, which takes most of the time, but for tests that look at it."""
    if not {"protocol", "ratio"} & set(request.node.name.split("_")):
        monkeypatch.setattr(
            "fastimae.evaluate.tasks.robustness.draw_accuracies",
            lambda *args: args[-2].write_bytes(b""),
        )


@pytest.fixture(scope="module")
def variants(tmp_path_factory):
    """Save v2, r and objectnet of flat colours, and a classifier of 1000 classes in MAE's layout.

    Every fourth image of a set shows another class of it; with r, every fourth next to these shows
    a class that is not among its 200, whose colour is nearest to the right one among these.
    """
    root = tmp_path_factory.mktemp("variants")
    colours = palette(imagenet())
    own, outside = sorted(released("r")), sorted(set(imagenet()) - released("r"))
    near = dict(zip(own, outside, strict=False))
    colours |= {near[name]: tuple(part + 2 for part in colours[name]) for name in own}
    for number, name in enumerate(imagenet()):
        other = imagenet()[(number + 1) % 1000]
        save_flat(root / "v2" / str(number) / "a.png", colours[other if number % 4 == 0 else name])
    for number, name in enumerate(own):
        seen = {0: own[(number + 1) % 200], 1: near[name]}.get(number % 4, name)
        save_flat(root / "r" / name / "a.png", colours[seen])
    shown = [folder for folder, classes in objectnet().items() if classes]
    for number, folder in enumerate(shown):
        wrong = objectnet()[shown[(number + 1) % 113]][0]
        seen = wrong if number % 4 == 0 else objectnet()[folder][-1]
        save_flat(root / "objectnet" / "images" / folder / "a.png", colours[seen], border=2)
    for folder in ("scissors", "fork"):
        save_flat(root / "objectnet" / "images" / folder / "a.png", (0, 0, 0), border=2)
    save_fine_tuned(root / "mae_finetuned.pth", imagenet(), colours, ours=False)
    return root


def test_each_set_has_its_protocol_and_its_known_answer(variants, tmp_path, capsys):
    names = ("v2", "r", "objectnet")
    sets = [f"{name}={variants / name}" for name in names]
    classifier = variants / "mae_finetuned.pth"
    assert run("--classifier", classifier, "--sets", *sets, "--output_dir", tmp_path) == 0
    said = capsys.readouterr()
    assert "taken for ImageNet's" in said.err and "positions in ImageNet's classes" in said.err
    assert "2 images of the others are left out" in said.err
    rows = {name: row for (_, name), row in table_of(tmp_path).items()}
    assert list(rows) == list(names)
    hits = {"v2": 75, "r": 75, "objectnet": 100 * 84 / 113}
    assert {name: row["acc1"] for name, row in rows.items()} == pytest.approx(hits)
    assert {name: row["among"] for name, row in rows.items()} == {
        "v2": 1000, "r": 200, "objectnet": 1000
    }  # fmt: skip
    assert rows["r"]["acc1_all"] == 50 and rows["r"]["acc1_own"] == 75
    assert rows["v2"]["acc1_all"] == rows["v2"]["acc1_own"] == 75
    assert [row["images"] for row in rows.values()] == [1000, 200, 113]
    assert [row["left_out"] for row in rows.values()] == [0, 0, 2]
    assert [row["folders"] for row in rows.values()] == [1000, 200, 113]
    assert rows["objectnet"]["own_classes"] == 125
    content = results_of(tmp_path)
    assert content["numbers"]["v2_acc1"] == 75 and content["pictures"] == ["robustness.png"]
    assert (tmp_path / "robustness.png").stat().st_size > 5000
    assert "| classifier | v2 | r | objectnet |" in said.out


def test_only_the_red_border_is_cut_off(variants):
    images = open_set("objectnet", variants / "objectnet", own=False).images
    for index in (0, 50, 112):
        pixels = np.asarray(images.view(index))
        assert pixels.shape == (32, 32, 3) and (pixels == pixels[0, 0]).all()
    other = open_set("mine", variants / "objectnet" / "images", own=False).images
    assert np.asarray(other.view(0)).shape == (36, 36, 3)


def test_hits_among_all_and_among_the_sets_own_classes():
    """Against a sort of each row; folders may have several right classes."""
    rng = np.random.default_rng(0)
    logits, own = rng.normal(size=(40, 12)), np.arange(12) % 3 > 0
    right = np.zeros((40, 12), bool)
    for row in right:
        row[rng.choice(np.flatnonzero(own), 2, replace=False)] = True
    expected = []
    for chosen in (np.ones(12, bool), own):
        order = [sorted(np.flatnonzero(chosen), key=lambda k: -row[k]) for row in logits]
        expected.append([
            sum(any(r[k] for k in best[:top]) for r, best in zip(right, order, strict=True))
            for top in (1, 5)
        ])  # fmt: skip
    found = counted(*(torch.tensor(each) for each in (logits, right, own)))
    assert found.tolist() == expected and 0 < expected[0][0] < expected[1][0] < 40


def test_the_order_of_classes_changes_nothing(tmp_path):
    wrong = {"mug": "zebra", "boat": "kite"}
    data = save_few(tmp_path / "data", wrong, per_class=2)
    tables = []
    for number, names in enumerate((FEW, FEW[::-1], sorted(FEW))):
        path = save_fine_tuned(tmp_path / "c" / f"{number}.pth", names, COLOURS)
        out = tmp_path / f"out{number}"
        assert run("--classifier", path, "--sets", f"mine={data}", "--output_dir", out) == 0
        ((_, row),) = table_of(out).items()
        tables.append({key: value for key, value in row.items() if key != "classifier"})
    assert tables[0] == tables[1] == tables[2]
    assert tables[0]["acc1"] == pytest.approx(100 * 4 / 6) and tables[0]["images"] == 12


def test_probes_over_the_ratio_that_they_differ_in(tmp_path, capsys):
    data = save_few(tmp_path / "data")
    probes = []
    for ratio in (0.75, 0.5):
        torch.manual_seed(int(100 * ratio))
        wrong = dict(COLOURS, mug=COLOURS["zebra"], zebra=COLOURS["mug"])
        known = COLOURS if ratio == 0.75 else wrong
        probes.append(save_probe(tmp_path / f"ratio{ratio}", FEW, known, mask_ratio=ratio))
    sets = ["--sets", f"one={data}", f"two={data}"]
    assert run("--classifier", *(path.parent for path in probes), *sets) == 0
    rows = table_of(tmp_path / "ratio0.75" / "eval-robustness")
    assert {key: row["acc1"] for key, row in rows.items()} == {
        ("ratio0.75/eval-linear", "one"): 100, ("ratio0.75/eval-linear", "two"): 100,
        ("ratio0.5/eval-linear", "one"): pytest.approx(100 * 4 / 6),
        ("ratio0.5/eval-linear", "two"): pytest.approx(100 * 4 / 6),
    }  # fmt: skip
    content = results_of(tmp_path / "ratio0.75" / "eval-robustness")
    begun = load_checkpoint(probes[0])["args"]["weights"]
    assert content["weights"] == content["begun"] == begun
    runs = [tmp_path / f"ratio{ratio}" for ratio in (0.75, 0.5)]
    assert evaluate(["compare", *map(str, runs), "--output_dir", str(tmp_path)]) == 0
    compared = json.loads((tmp_path / "compare.json").read_text())["accuracies"]
    texts = [[round(row[f"Robustness: {name}"]["value"], 2) for name in ("one", "two")]
             for row in compared]  # fmt: skip
    assert texts == [[100, 100], [66.67, 66.67]] and compared[0]["Robustness: one"]["best"]
    assert evaluate(["report", str(tmp_path / "ratio0.75")]) == 0
    page = (tmp_path / "ratio0.75" / "report.html").read_text()
    assert "Robustness" in page and "no checkpoint here" not in page


def test_the_encoder_of_a_probe_is_found_by_its_digest(tmp_path, capsys):
    data = save_few(tmp_path / "data")
    save_probe(tmp_path / "run", FEW, COLOURS)
    (tmp_path / "run").rename(tmp_path / "moved")
    probe = tmp_path / "moved" / "eval-linear"
    flags = ["--classifier", probe, "--sets", f"mine={data}", "--output_dir", tmp_path / "out"]
    assert run(*flags) == 0 and results_of(tmp_path / "out")["numbers"]["mine_acc1"] == 100
    encoder = tmp_path / "moved" / "checkpoint-last.pth"
    encoder.rename(tmp_path / "elsewhere.pth")
    torch.manual_seed(9)
    save_run(tmp_path / "moved", tiny_model())  # other weights under its name
    assert run(*flags) == 2
    assert refused(capsys, "is a probe of the encoder", "other weights", "as --checkpoint")
    assert run(*flags, "--checkpoint", tmp_path / "elsewhere.pth") == 0
    encoder.unlink()
    assert run(*flags) == 2 and refused(capsys, "which is not there", "as --checkpoint")


def test_a_probe_of_an_earlier_block(tmp_path, capsys):
    data, model = save_few(tmp_path / "data"), tiny_model()
    encoder = save_run(tmp_path / "run", model)
    probe = save_probe_of(model, encoder, tmp_path / "probe.pth", FEW, COLOURS, layer=0)
    flags = ["--classifier", probe, "--sets", f"mine={data}", "--output_dir", tmp_path / "out"]
    assert run(*flags) == 0 and results_of(tmp_path / "out")["numbers"]["mine_acc1"] == 100
    content = load_checkpoint(probe)
    content["model"]["1.bias2"] = content["model"].pop("1.bias")
    save_checkpoint(probe, content)
    assert run(*flags) == 2 and refused(
        capsys, probe, "other weights than a linear or an attentive"
    )


def test_an_attentive_probe_has_its_own_heads_and_all_tokens_of_its_layer(tmp_path):
    model = tiny_model()
    encoder = save_run(tmp_path / "run", model)
    path = save_probe_of(model, encoder, tmp_path / "probe.pth", FEW, COLOURS, layer=0)
    probe = attentive_probe(32, 2, len(FEW), seed=1).eval()
    with torch.no_grad():
        probe[1].query.mul_(50)  # attention that is far from even
    content = load_checkpoint(path)
    content["args"] |= {"probe": "attentive", "probe_heads": 2}
    save_checkpoint(path, {**content, "model": probe.state_dict()})
    options = RobustnessOptions(classifier=(path,), sets=("a=b",), precision="fp32")
    (found,) = load_classifiers(options, torch.device("cpu"))
    pixels = torch.randint(0, 256, (3, 32, 32, 3), dtype=torch.uint8)
    with torch.no_grad():
        (tokens_BTD,) = model.forward_features(pixels, layers=[0])
        expected = probe(tokens_BTD)
    torch.testing.assert_close(found.logits(pixels), expected)
    assert found.names == tuple(FEW)


def test_a_probe_of_maes_code_has_its_encoder_with_it(tmp_path):
    data = save_few(tmp_path / "data", {"mug": "zebra"})
    probe = save_probe(tmp_path / "run", FEW, COLOURS)
    layer = load_checkpoint(probe)["model"]
    encoder = load_checkpoint(tmp_path / "run" / "checkpoint-last.pth")["model"]
    kept = {k: v for k, v in encoder.items() if not k.startswith(("decoder", "mask_token"))}
    head = {f"head.{name}": value for name, value in layer.items()}
    content = {"model": {**kept, **head}, "args": {"num_heads": HEADS, CLASSES: FEW}}
    save_checkpoint(tmp_path / "linprobe.pth", content)
    out = tmp_path / "out"
    assert run("--classifier", tmp_path / "linprobe.pth", "--sets", f"mine={data}",
               "--output_dir", out) == 0  # fmt: skip
    assert results_of(out)["numbers"]["mine_acc1"] == pytest.approx(100 * 5 / 6)


@pytest.mark.parametrize(
    ("task", "flags"),
    [
        ("linear", []),
        ("linear", ["--probe", "attentive", "--probe_heads", "2", "--layer", "0"]),
        ("finetune", ["--aa", "none"]),
    ],
)
def test_on_the_validation_images_it_has_the_accuracy_of_the_training(task, flags, tmp_path):
    save_splits(tmp_path / "data", 12)
    encoder = save_run(tmp_path / "run", tiny_model())
    assert evaluate([
        task, "--checkpoint", str(encoder), "--data_path", str(tmp_path / "data"), "--epochs", "2",
        *QUICK[:-1], "12", *flags,
    ]) == 0  # fmt: skip
    trained = results_of(tmp_path / "run" / f"eval-{task}")["numbers"]
    folder = tmp_path / "run" / f"eval-{task}"
    assert run("--classifier", folder, "--sets", f"mine={tmp_path / 'data'}") == 0
    (row,) = table_of(tmp_path / "run" / "eval-robustness").values()
    assert row["acc1"] == trained["best_acc1"] and row["acc5"] == 100
    assert evaluate(["report", str(tmp_path / "run")]) == 0
    assert "no checkpoint here" not in (tmp_path / "run" / "report.html").read_text()


def test_a_beton_file_and_bad_images(tmp_path, capsys):
    data = save_few(tmp_path / "data", {"mug": "zebra"})
    assert convert([str(data), str(tmp_path / "data.beton")]) == 0
    (data / "mug" / "bad.png").write_bytes((data / "mug" / "0.png").read_bytes()[:60])
    path = save_fine_tuned(tmp_path / "c.pth", FEW, COLOURS)
    sets = [f"files={data}", f"beton={tmp_path / 'data.beton'}"]
    assert run("--classifier", path, "--sets", *sets) == 0
    rows = {name: row for (_, name), row in table_of(tmp_path / "eval-robustness").items()}
    assert {name: (row["images"], row["bad_images"]) for name, row in rows.items()} == {
        "files": (6, 1), "beton": (6, 0)
    }  # fmt: skip
    assert rows["files"]["acc1"] == rows["beton"]["acc1"] == pytest.approx(100 * 5 / 6)
    assert "is skipped" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("sets", "message"),
    [
        (["mine={}/none"], "there is no such file or folder"),
        (["{}/few"], "give it as NAME=DIR"),
        (["a={}/few", "a={}/more"], "another set is called a, too"),
        (["mine={}/few", "--own_classes", "his"], "no set has this name"),
        (["mine={}/more"], "has 1 folders of classes that the classifier does not know: umbrella"),
        (["sketch={}/part"], "no images of 1 of its 6 classes: zebra; get all of the set"),
        (["objectnet={}/few"], "has 4 folders that objectnet has not: apple"),
        (["v2={}/numbers"], "the classifier does not know: 6"),
    ],
    ids=str,
)
def test_what_does_not_fit_is_one_line_that_names_it(tmp_path, capsys, sets, message):
    save_few(tmp_path / "few")
    save_few(tmp_path / "part")
    shutil.rmtree(tmp_path / "part" / "zebra")
    save_few(tmp_path / "more")
    save_flat(tmp_path / "more" / "umbrella" / "0.png", (0, 0, 0))
    for number in range(1, 7):
        save_flat(tmp_path / "numbers" / str(number) / "0.png", (0, 0, 0))
    path = save_fine_tuned(tmp_path / "c.pth", FEW, COLOURS)
    assert run("--classifier", path, "--sets", *(each.format(tmp_path) for each in sets)) == 2
    assert refused(capsys, message)
    assert not (tmp_path / "eval-robustness").exists()


def test_classifiers_that_cannot_be_matched(tmp_path, capsys):
    data = save_few(tmp_path / "data")
    sets = ["--sets", f"mine={data}"]
    nameless = save_fine_tuned(tmp_path / "c.pth", FEW, COLOURS, ours=False)
    assert run("--classifier", nameless, *sets) == 2
    assert refused(capsys, nameless, "has 6 classes and does not name them")
    encoder = save_run(tmp_path / "run", tiny_model())
    assert run("--classifier", encoder, *sets) == 2
    assert refused(capsys, f"--classifier {encoder} is not a classifier")


def test_a_wrong_file_is_one_line_with_its_flag(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    save_few(tmp_path / "few")
    save_flat(tmp_path / "photo.png", (0, 0, 0))
    save_fine_tuned(tmp_path / "c.pth", FEW, COLOURS)
    save_probe(tmp_path / "run", FEW, COLOURS)
    for folder in ("empty", "flat", "alone"):
        (tmp_path / folder).mkdir()
    shutil.copy(tmp_path / "photo.png", tmp_path / "flat")
    shutil.copy(tmp_path / "run" / "checkpoint-last.pth", tmp_path / "alone")
    (tmp_path / "junk").write_text("junk")
    c, few, probe = "--classifier c.pth", "--sets x=few", "--classifier run/eval-linear"
    for flags, words in {
        f"{c} --sets x=photo.png": "--sets x=photo.png is an image, not",
        f"{c} --sets x=empty": "--sets x: no images in empty",
        f"{c} --sets x=flat": "--sets x=flat has images without labels: give folders called by",
        f"{c} --sets x=junk": "--sets x=junk is a text file",
        f"{c} --sets x=": "--sets x=: give it as NAME=DIR",
        f"{c} --sets =few": "--sets =few: give it as NAME=DIR",
        f"{c} --sets classifier=few": "--sets classifier=few: the column of classifiers is called",
        f"--classifier none.pth {few}": "--classifier: there is no checkpoint none.pth",
        f"--classifier run {few}": "--classifier run holds no checkpoint-best.pth: give the folder "
        "of a fastimae-eval linear, finetune or msem, such as run/eval-linear, or a classifier's",
        f"--classifier alone {few}": "--classifier alone holds no checkpoint-best.pth",
        f"{c} empty {few}": "--classifier empty holds no checkpoint-best.pth",
        f"--classifier junk {few}": "--classifier junk is not a checkpoint",
        f"--classifier photo.png {few}": "--classifier photo.png is not a checkpoint",
        f"{c} {few} --num_heads 3": "--classifier c.pth was trained with num_heads 4, not 3: drop "
        "--num_heads",
        f"{probe} {few} --num_heads 3": "checkpoint-last.pth was trained with num_heads 4, not 3: "
        "drop --num_heads",
        f"{probe} {few} --checkpoint none": "--checkpoint: there is no checkpoint none",
        f"{probe} {few} --checkpoint junk": "--checkpoint junk is not a checkpoint",
        f"{c} {few} --checkpoint alone/checkpoint-last.pth": "--checkpoint alone/checkpoint-last.pt"
        "h is the encoder of no probe here: drop it",
    }.items():
        assert run(*flags.split(), "--output_dir", "out") == 2, flags
        assert refused(capsys, words), words
        assert not (tmp_path / "out").exists()


def test_own_classes_of_a_set_of_the_users(tmp_path):
    """A kite in the colour of a mug is a kite where there are no mugs."""
    data = save_few(tmp_path / "data", {"kite": "mug"})
    shutil.rmtree(data / "mug")
    path = save_fine_tuned(tmp_path / "c.pth", FEW, COLOURS)
    flags = ["--classifier", path, "--sets", f"mine={data}", f"same={data}"]
    assert run(*flags, "--own_classes", "mine") == 0
    rows = {name: row for (_, name), row in table_of(tmp_path / "eval-robustness").items()}
    assert [row["among"] for row in rows.values()] == [5, 6]
    assert rows["same"]["acc1"] == 80 and rows["same"]["acc1_own"] == rows["mine"]["acc1"]


def test_any_number_of_processes_have_the_same_result(tmp_path):
    data = save_few(tmp_path / "data", {"mug": "zebra"}, per_class=3)
    (data / "mug" / "0.png").write_bytes(b"")
    path = save_fine_tuned(tmp_path / "c.pth", FEW, COLOURS)

    flags = {"classifier": (path,), "sets": (f"mine={data}",), "device": "cpu", "num_workers": 0}
    options = RobustnessOptions(**flags, batch_size=2)
    classifiers = load_classifiers(options, torch.device("cpu"))
    alone = measure(options, classifiers, ALONE)
    assert in_two_ranks(lambda world: measure(options, classifiers, world)) == [alone, alone]
    assert alone[0]["bad_images"] == 1 and alone[0]["images"] == 17


def test_options_say_where_results_go(tmp_path):
    folder = tmp_path / "run" / "eval-linear"
    folder.mkdir(parents=True)
    (folder / "checkpoint-best.pth").touch()
    options = RobustnessOptions(classifier=(folder,), sets=("a=b",))
    assert options.source() == folder / "checkpoint-best.pth"
    assert options.folder("robustness") == tmp_path / "run" / "eval-robustness"
    other = RobustnessOptions(classifier=(tmp_path / "c.pth",), sets=("a=b",))
    assert other.folder("robustness") == tmp_path / "eval-robustness"
