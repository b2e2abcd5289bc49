"""fastimae-eval cluster: the file it writes, its numbers, and training on it."""

import json
import math

import numpy as np
import pytest
import torch
from PIL import Image
from tiny import save_run, tiny_model
from toy_images import save_colours, save_mae, save_splits
from undrawn import undrawn

pytest.importorskip("sklearn")

from fastimae.cli import evaluate, train
from fastimae.evaluate.clustering import figures
from fastimae.evaluate.clustering.agreement import agreement
from fastimae.evaluate.images import open_images
from fastimae.loaders.order.pseudo_labels import PseudoLabels

QUICK = ["--num_workers", "0", "--device", "cpu", "--precision", "fp32"]


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """mae.pth, data/train of 20 images in each of 3 classes, and the same 60 in one flat folder."""
    root = tmp_path_factory.mktemp("cluster")
    save_mae(root / "mae.pth", depth=2)
    save_splits(root / "data", 20)
    (root / "flat").mkdir()
    for path in sorted((root / "data/train").rglob("*.png")):
        (root / "flat" / f"{path.parent.name}_{path.name}").write_bytes(path.read_bytes())
    return root


@pytest.fixture(autouse=True)
def _few_pictures(monkeypatch):
    """A hundred pictures take seconds to draw."""
    for name, count in (("CLUSTERS", 3), ("NEAREST", 2), ("ANY", 1)):
        monkeypatch.setattr(figures, name, count)


def command(root, folder, *flags, images="data"):
    paths = ["--checkpoint", root / "mae.pth", "--data_path", root / images, "--output_dir", folder]
    return evaluate(["cluster", *map(str, paths), *QUICK, *map(str, flags)])


def numbers_of(folder):
    return json.loads((folder / "results.json").read_text())["numbers"]


def plain_agreement(clusters, labels):
    """Follow the definitions, image by image and pair by pair, in plain Python."""
    count = len(labels)

    def entropy(values):
        shares = [np.mean([v == value for v in values]) for value in set(values)]
        return -sum(share * math.log(share) for share in shares)

    both = list(zip(clusters, labels, strict=True))
    information = entropy(clusters) + entropy(labels) - entropy(both)
    most = 0
    for cluster in set(clusters):
        members = [label for c, label in both if c == cluster]
        most += max(members.count(label) for label in members)
    shares = []
    for index, (cluster, label) in enumerate(both):
        others = [other for j, (c, other) in enumerate(both) if c == cluster and j != index]
        shares += [np.mean([other == label for other in others])] if others else []
    nmi = 2 * information / (entropy(clusters) + entropy(labels))
    return {"nmi": nmi, "purity": most / count, "same_class_pairs": np.mean(shares)}


def test_agreement_is_as_defined():
    rng = np.random.default_rng(0)
    labels = rng.integers(4, size=60) * 1000
    clusters = np.where(rng.random(60) < 0.6, labels // 1000, rng.integers(6, size=60))
    clusters[0] = 6  # alone in its cluster
    expected = plain_agreement(clusters.tolist(), labels.tolist())
    assert agreement(clusters, labels) == pytest.approx(expected, abs=1e-12)
    assert agreement(labels // 1000, labels) == {"nmi": 1, "purity": 1, "same_class_pairs": 1}


def test_colours_become_clusters(root, tmp_path):
    folder = tmp_path / "out"
    assert command(root, folder, "--k", 3) == 0
    numbers, images = numbers_of(folder), open_images(root / "data")
    assert numbers["nmi"] == numbers["purity"] == numbers["same_class_pairs"] == 1
    assert numbers["sizes"] == [20, 20, 20] and numbers["images"] == 60
    assert (numbers["smallest"], numbers["largest"], numbers["clusters"]) == (20, 20, 3)
    content = json.loads((folder / "results.json").read_text())
    of_file = PseudoLabels.read(folder / "clusters.npz")
    assert of_file.weights == content["weights"] and of_file.clusters == 3
    assert of_file.data == images.identity() and len(of_file.labels) == 60
    assert len(set(zip(of_file.labels.tolist(), images.labels.tolist(), strict=True))) == 3
    assert content["pictures"] == ["cluster_sizes.png", "cluster_images.png"]
    assert Image.open(folder / "cluster_images.png").height > 200


@undrawn()
def test_the_file_is_the_same_each_time_and_needs_no_labels(root, tmp_path):
    for name, images in (("a", "data"), ("b", "data"), ("c", "flat")):
        flags = ["--k", 7, "--output", tmp_path / f"{name}.npz"]
        assert command(root, tmp_path / name, *flags, images=images) == 0
    assert (tmp_path / "a.npz").read_bytes() == (tmp_path / "b.npz").read_bytes()
    with_labels, without = (PseudoLabels.read(tmp_path / f"{name}.npz") for name in "ac")
    assert with_labels.labels.tolist() == without.labels.tolist()
    assert "nmi" in numbers_of(tmp_path / "a") and "nmi" not in numbers_of(tmp_path / "c")
    assert not (tmp_path / "a" / "clusters.npz").exists()


@undrawn()
def test_unreadable_images_are_counted_and_have_no_cluster(root, tmp_path):
    save_colours(tmp_path / "images", 8)
    (tmp_path / "images/b_green/002.png").write_bytes(b"broken")
    flags = ["--checkpoint", str(root / "mae.pth"), "--data_path", str(tmp_path / "images")]
    for folder in ("first", "from the cache"):
        out = ["--output_dir", str(tmp_path / folder), "--feature_dir", str(tmp_path / "features")]
        assert evaluate(["cluster", *flags, *QUICK, "--k", "3", *out]) == 0
        numbers = numbers_of(tmp_path / folder)
        assert numbers["bad_images"] == 1 and numbers["images"] == 23 and numbers["nmi"] == 1
        labels = PseudoLabels.read(tmp_path / folder / "clusters.npz").labels
        assert np.flatnonzero(labels < 0).tolist() == [10]
        assert sorted(np.bincount(labels[labels >= 0]).tolist()) == [7, 8, 8]


def test_what_cannot_be_clustered_is_one_line(root, tmp_path, capsys):
    for path in (root / "data/train/a_red").iterdir():
        target = tmp_path / "same" / path.name
        target.parent.mkdir(exist_ok=True)
        target.write_bytes((root / "data/train/a_red/000.png").read_bytes())
    broken = torch.load(root / "mae.pth", weights_only=True)
    broken["model"]["norm.bias"][0] = torch.nan
    torch.save(broken, tmp_path / "nan.pth")
    for flags, said in (
        (["--k", 61], "--k 61 is more than there are distinct images: 60 of 60"),
        (["--k", 2, "--data_path", tmp_path / "same"], "distinct images: 1 of 20"),
        (["--k", 1], "--k must be 2 or more, not 1"),
        (["--k", 3, "--checkpoint", tmp_path / "nan.pth"], "features of 60 of 60 images are infi"),
        (["--k", 3, "--val", root / "data/val"], "--val: give the images to cluster"),
        (["--k", 3, "--output", root], f"cannot write {root}, which is a folder"),
    ):
        given = dict(zip(flags[::2], flags[1::2], strict=True))
        usual = {"--checkpoint": root / "mae.pth", "--data_path": root / "data"} | given
        arguments = [str(word) for pair in usual.items() for word in pair]
        out = ["--output_dir", str(tmp_path / "out")]
        assert evaluate(["cluster", *arguments, *QUICK, *out]) == 2
        assert said in capsys.readouterr().err.splitlines()[-1]


@undrawn()
def test_an_i_mae_trains_on_clusters_of_a_mae(root, tmp_path, capsys):
    """End to end, on images without labels: every mixture is of one colour."""
    file = tmp_path / "clusters.npz"
    assert command(root, tmp_path / "eval", "--k", 3, "--output", file, images="flat") == 0
    run = [
        *("--model", "mae_vit_nano_patch16", "--input_size", "32", "--epochs", "1"),
        *("--warmup_epochs", "0", "--batch_size", "12", "--mix_group", "2", *QUICK),
        *("--objective", "imae", "--same_class_ratio", "1", "--pseudo_labels", str(file)),
    ]
    flat, out = str(root / "flat"), ["--output_dir", str(tmp_path / "run")]
    assert train([*run, "--data_path", flat, *out]) == 0
    (line,) = (tmp_path / "run/log.txt").read_text().splitlines()
    assert json.loads(line)["same_class_ratio"] == 1
    said = capsys.readouterr().err
    assert f"the classes are the 3 clusters in {file}" in said
    assert "epoch 0: 1.000 of the mixtures share a class" in said
    assert train([*run, "--data_path", str(root / "data"), *out]) == 2
    assert f"--pseudo_labels {file} is of other images" in capsys.readouterr().err


@undrawn()
def test_clusters_of_fresh_weights_are_a_baseline(tmp_path, image_folder):
    path = save_run(tmp_path, tiny_model())
    flags = ["--checkpoint", str(path), "--data_path", str(image_folder), *QUICK, "--k", "4"]
    assert evaluate(["cluster", *flags, "--random_init"]) == 0
    assert numbers_of(tmp_path / "eval-cluster-random")["clusters"] == 4
