"""Trainings with every back end, which see the same images."""

import pytest
from back_ends import AVAILABLE
from cli.toy_runs import THREE_EPOCHS, log_of, train
from PIL import Image
from quick_ffcv import import_ffcv

from fastimae.loaders import BetonWriter


@pytest.fixture(scope="module")
def in_order(image_folder, tmp_path_factory):
    """Return the images as a .beton in the order of the folder, which fastimae-convert would
    shuffle."""
    path = tmp_path_factory.mktemp("in_order") / "images.beton"
    with BetonWriter(path) as writer:
        for file in sorted(image_folder.rglob("*.jpg")):
            width, height = Image.open(file).size
            label = int(file.parent.name[-1])
            writer.append(file.read_bytes(), height=height, width=width, label=label)
    return path


def curve_of(source, output_dir):
    command = f"{source} {THREE_EPOCHS} --output_dir {output_dir}"
    assert train(command) == 0
    return [line["train_loss"] for line in log_of(output_dir)]


@pytest.fixture(scope="module")
def exact_curve(in_order, tmp_path_factory):
    """Return the curve of a run that Pillow decodes for."""
    return curve_of(f"--ffcv {in_order} --decoder pillow", tmp_path_factory.mktemp("exact"))


@pytest.mark.parametrize("name", sorted({*AVAILABLE} - {"pillow-2", "synthetic-0"}))
def test_every_back_end_trains_to_the_same_curve(
    image_folder, in_order, own_datasets, exact_curve, tmp_path, name
):
    """Equal bits if decoding is exact; DALI and ffcv resize slightly differently."""
    kind, workers = name.split("-")
    if kind == "ffcv":
        import_ffcv()
    source = {
        "folder": f"--data_path {image_folder}",
        "dataset": f"--dataset {own_datasets}:plain",
        "dali": f"--dali {in_order}",
        "dalishare": f"--ffcv {in_order} --dali_share 0.4",
    }.get(kind, f"--ffcv {in_order} --decoder {kind}")
    assert exact_curve[-1] < 0.95 * exact_curve[0]
    tolerance = {"dali": 2e-3, "dalishare": 2e-3, "ffcv": 2e-2}.get(kind, 0)
    curve = curve_of(f"{source} --num_workers {workers}", tmp_path)
    assert curve == pytest.approx(exact_curve, rel=tolerance, abs=0)
