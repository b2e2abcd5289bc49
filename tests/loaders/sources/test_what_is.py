"""The kind of an input is decided by its content, and errors say what takes that kind."""

import contextlib
import io
import tarfile
from pathlib import Path

import numpy as np
import pytest
import torch
from beton_by_hand import many_fields
from PIL import Image

from fastimae import cli
from fastimae.loaders import BetonReader, DataError, create_loader
from fastimae.loaders.backends.dali_source import BetonJpegs, find_jpegs
from fastimae.loaders.sources.find import find_source
from fastimae.loaders.sources.what_is import is_beton, what_is

KINDS = {
    "beton": "a .beton file",
    "foreign": "a file of another kind",
    "folder": "a folder",
    "image": "an image",
    "list": "a text file",
    "packed": "a compressed tar file",
    "tar": "a tar file",
}


def png():
    file = io.BytesIO()
    Image.fromarray(np.full((2, 2, 3), 9, np.uint8)).save(file, "PNG")
    return file.getvalue()


def tar(packing=""):
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode=f"w:{packing}") as archive:
        member = tarfile.TarInfo("a/b.png")
        member.size = len(png())
        archive.addfile(member, io.BytesIO(png()))
    return file.getvalue()


def make(path, kind):
    if kind == "folder":
        path.mkdir()
        (path / "x.png").write_bytes(png())
        return path
    checkpoint = io.BytesIO()
    torch.save({"model": {}}, checkpoint)
    content = {
        "beton": many_fields([("image", "image"), ("label", "int")], {"label": [1, 0, 2]}),
        "foreign": checkpoint.getvalue(),
        "image": png(),
        "list": b"a.png 1\n" * 9,
        "packed": tar("gz"),
        "tar": tar(),
    }
    path.write_bytes(content[kind])
    return path


@pytest.mark.parametrize("name", ["x.beton", "x.tar", "x.png", "x"])
@pytest.mark.parametrize("kind", KINDS)
def test_content_decides_the_kind(tmp_path, kind, name):
    assert what_is(make(tmp_path / name, kind)) == KINDS[kind]


def test_a_beton_may_have_any_name(tmp_path):
    path = make(tmp_path / "data.bin", "beton")
    with contextlib.closing(find_jpegs(path, label_field="label")) as found:
        assert isinstance(found, BetonJpegs) and found.labels.tolist() == [1, 0, 2]
    assert is_beton("gone.beton") and is_beton(make(tmp_path / "a.beton", "foreign"))
    assert not any(is_beton(make(tmp_path / f"{kind}.beton", kind)) for kind in ("tar", "folder"))


TRAINING = {
    ("ffcv", "tar"): "give it as --dali, or fastimae-convert {} OUT.beton",
    ("ffcv", "packed"): "fastimae-convert {} OUT.beton",
    ("ffcv", "image"): "give the folder that contains it as --data_path, or fastimae-convert ",
    ("ffcv", "folder"): "give it as --data_path, or fastimae-convert {} OUT.beton",
    ("ffcv", "list"): "fastimae-convert {} OUT.beton makes a .beton file of it if it lists images",
    ("data_path", "tar"): "give it as --dali, or fastimae-convert {} OUT.beton",
    ("data_path", "image"): "give the folder that contains it",
    ("data_path", "beton"): "give it as --ffcv",
    ("data_path", "foreign"): "not a folder",
}


@pytest.mark.parametrize(("flag", "kind"), TRAINING, ids="-".join)
def test_training_says_which_flag_takes_it(tmp_path, flag, kind):
    path = make(tmp_path / "given", kind)
    with pytest.raises(DataError) as caught:
        create_loader(batch_size=2, **{flag: path})
    assert str(caught.value).startswith(f"--{flag} {path} is {KINDS[kind]}, not a")
    assert TRAINING[flag, kind].format(path) in str(caught.value)


@pytest.mark.parametrize(
    ("kind", "said"),
    [
        ("beton", "is already a .beton file; --verify checks it"),
        ("image", "is an image; give the folder that contains it"),
        ("foreign", "neither a folder, a tar file nor a text file"),
    ],
)
def test_conversion_names_inputs_that_it_cannot_use(tmp_path, kind, said, capsys):
    path = make(tmp_path / "given", kind)
    assert cli.convert([str(path), str(tmp_path / "out.beton")]) == 2
    assert said in capsys.readouterr().err


def test_a_list_may_have_any_name(tmp_path):
    make(tmp_path / "a.png", "image")
    source = find_source(str(make(tmp_path / "list.tar", "list")), None)
    assert source.labels == [1] * 9


@pytest.mark.parametrize("kind", ["folder", "tar", "image", "list"])
def test_verification_names_inputs_that_it_cannot_use(tmp_path, kind, capsys):
    path = make(tmp_path / "given", kind)
    assert cli.convert(["--verify", str(path)]) == 2
    assert f"{path} is {KINDS[kind]}, not a .beton file: " in capsys.readouterr().err


def test_verification_suggests_only_inputs_that_it_takes(tmp_path):
    with pytest.raises(DataError) as caught:
        BetonReader(make(tmp_path / "x.png", "image"))
    way = f"fastimae-convert {tmp_path} OUT.beton makes a .beton file of the folder that contains"
    assert str(caught.value).endswith(f"not a .beton file: {way} it")


@pytest.mark.parametrize("flag", ["ffcv", "data_path"])
@pytest.mark.parametrize("what", ["open", "stat"])
def test_what_cannot_be_read_is_no_file_of_another_kind(tmp_path, monkeypatch, flag, what):
    """With a mocked system call, because the superuser can read everything."""
    path, real = make(tmp_path / "locked", "beton"), getattr(Path, what)

    def refusing(self, *args, **options):
        if self == path:
            raise PermissionError(13, "Permission denied", str(self))
        return real(self, *args, **options)

    monkeypatch.setattr(Path, what, refusing)
    with pytest.raises(DataError) as caught:
        create_loader(batch_size=2, **{flag: path})
    assert str(caught.value) == f"--{flag} {path}: cannot be read (Permission denied)"


def test_a_path_in_a_command_can_be_pasted(tmp_path):
    path = make(tmp_path / "my shard", "tar")
    with pytest.raises(DataError, match=r"fastimae-convert '.*my shard' OUT"):
        BetonReader(Path(path))
