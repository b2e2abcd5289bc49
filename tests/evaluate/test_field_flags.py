"""Images of evaluation: which field is read from which file, and which flag takes what."""

import logging

import pytest
from beton_by_hand import many_fields
from PIL import Image
from tiny import save_run, tiny_model

from fastimae.cli import evaluate
from fastimae.evaluate.tasks.weights import WeightsOptions
from fastimae.loaders import DataError
from fastimae.settings import ConfigError

OTHERS = [("left", "image"), ("right", "image"), ("id", "int"), ("fine", "int")]
USUAL = [("image", "image"), ("label", "int"), ("id", "int")]


@pytest.fixture
def files(tmp_path):
    """Files of the ffcv library, with other field names, and of fastimae-convert."""
    train, val = tmp_path / "train.beton", tmp_path / "val.beton"
    train.write_bytes(many_fields(OTHERS, {"id": [7, 8, 9], "fine": [2, 1, 0]}))
    val.write_bytes(many_fields(USUAL, {"label": [0, 1, 2], "id": [4, 5, 6]}))
    return {"ffcv": train, "val": val}


def opened(files, **asked):
    options = WeightsOptions(checkpoint=files["val"].parent / "x.pth", **files, **asked)
    return options.train_images(), options.val_images()


def shade(images):
    return images[0][0].getpixel((0, 0))[0]


def test_a_field_is_asked_of_the_files_that_have_it(files, caplog):
    with caplog.at_level(logging.INFO, "fastimae"):
        train, val = opened(files, label_field="fine", image_field="right")
    assert train.labels.tolist() == [2, 1, 0] and shade(train) == 40
    assert val.labels.tolist() == [0, 1, 2] and shade(val) == 0
    said = [message for message in caplog.messages if "does not apply" in message]
    assert len(said) == 2 and all(message.startswith(str(files["val"])) for message in said)
    assert "--label_field fine does" in said[0] and "--image_field right does" in said[1]


def test_one_that_all_have_is_asked_of_all(files):
    train, val = opened(files, label_field="id", image_field="left")
    assert train.labels.tolist() == [7, 8, 9] and val.labels.tolist() == [4, 5, 6]
    train, val = opened(files, label_field="none", image_field="right")
    assert train.labels.tolist() == val.labels.tolist() == [-1] * 3


def test_one_that_no_file_has_is_an_error_that_lists_them(files):
    with pytest.raises(
        DataError, match=r"--image_field middle: no file .*left, right, id, fine.*;"
    ):
        opened(files, image_field="middle")


def test_a_field_of_another_type_is_an_error(files):
    with pytest.raises(DataError, match=r"--label_field right: .*train.beton has no field"):
        opened(files, label_field="right", image_field="left")


def test_a_folder_beside_a_beton_has_no_fields(files, image_folder):
    train, val = opened({**files, "val": image_folder}, label_field="fine", image_field="right")
    assert train.labels.tolist() == [2, 1, 0] and len(val.classes) > 1
    with pytest.raises(ConfigError, match=r"for \.beton files"):
        options = {"checkpoint": image_folder / "x", "data_path": image_folder, "image_field": "a"}
        WeightsOptions(**options).train_images()


@pytest.mark.parametrize(
    ("flag", "given", "said"),
    [
        ("val", "im/a.png", "is an image, not a .beton file or a folder: give the folder that"),
        ("val", "checkpoint-last.pth", "not a .beton file"),
        ("val", "gone", "there is no such file or folder"),
        ("ffcv", "im", "is a folder, not a .beton file: give it as --data_path, or fastimae-conv"),
        ("data_path", "val.beton", "is a .beton file, not a folder: give it as --ffcv"),
        ("data_path", "im/a.png", "is an image, not a folder: give the folder that contains it"),
    ],
)
def test_what_a_flag_cannot_take_is_said_at_once(files, tmp_path, flag, given, said, capsys):
    pytest.importorskip("sklearn")
    (tmp_path / "im").mkdir()
    Image.new("RGB", (8, 8)).save(tmp_path / "im" / "a.png")
    checkpoint = save_run(tmp_path, tiny_model())
    flags = {"ffcv": files["ffcv"], "val": files["val"], flag: tmp_path / given}
    if flag == "data_path":
        del flags["ffcv"]
    argv = [word for name, path in flags.items() for word in (f"--{name}", str(path))]
    extra = ["--label_field", "id", "--image_field", "left"] if "ffcv" in flags else []
    assert evaluate(["knn", "--checkpoint", str(checkpoint), *argv, *extra]) == 2
    assert str(tmp_path / given) in (error := capsys.readouterr().err) and said in error
