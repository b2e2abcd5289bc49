"""Files that torch would have to unpickle as code: every command refuses them, without its advice.

torch's errors explain how to load such files all the same, which runs whatever is in them.
"""

import os
import shlex
import warnings

import pytest
import torch
from tiny import NAME, save_run, tiny_model
from toy_images import save_splits

from fastimae import cli
from fastimae.engine.checkpoint_file import CheckpointError, read


class Harmful:
    """Makes a folder when it is unpickled."""

    def __reduce__(self):
        return os.mkdir, ("harm",)


FILES = {
    "code.pth": ({"model": Harmful()}, r"it needs posix.mkdir, which is code"),
    "object.pth": ({"model": {}, "x": Harmful}, r"it needs \S+\.Harmful, which is code"),
    "whole_model.pth": (torch.nn.Linear(1, 1), r"it needs torch.nn.modules.linear.Linear"),
    "big.pth": ({"model": {}, "x": 1 << 3000}, "holds more than tensors and plain values"),
}
ADVICE = ("weights_only", "trust", "add_safe_globals", "file an issue", "arbitrary")


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """Make a folder with the files, images, and a checkpoint that is fine."""
    root = tmp_path_factory.mktemp("unsafe")
    for name, (content, _) in FILES.items():
        torch.save(content, root / name)
        torch.save(content, root / f"old_{name}", _use_new_zipfile_serialization=False)
    with warnings.catch_warnings(action="ignore"):
        torch.jit.save(torch.jit.script(torch.nn.Linear(1, 1)), root / "script.pth")
    (root / "hub").mkdir()
    (root / "hub/config.json").write_text('{"architectures": ["ViTMAEForPreTraining"]}')
    torch.save(FILES["big.pth"][0], root / "hub/pytorch_model.bin")
    save_run(root / "run", tiny_model())
    save_splits(root / "images", 8)
    return root


REASONS = {
    **{name: why for name, (_, why) in FILES.items()},
    **{f"old_{name}": why for name, (_, why) in FILES.items()},
    "script.pth": "it is a TorchScript archive, which holds code",
}


@pytest.mark.parametrize("mmap", [False, True])
@pytest.mark.parametrize("name", REASONS)
def test_the_reason_is_ours_alone(files, name, mmap):
    with warnings.catch_warnings(), pytest.raises(CheckpointError, match=REASONS[name]) as caught:
        warnings.simplefilter("error")
        read(files / name, mmap=mmap)
    assert not any(word in str(caught.value) for word in ADVICE)
    assert caught.value.__cause__ is None and caught.value.__suppress_context__
    assert not (files / "harm").exists()


def test_torchs_older_files_are_read_without_mapping_them(tmp_path):
    torch.save(
        {"model": {"a": torch.ones(2)}}, tmp_path / "a", _use_new_zipfile_serialization=False
    )
    assert read(tmp_path / "a", mmap=True)["model"]["a"].tolist() == [1, 1]


TRAIN = f"train --synthetic --synthetic_samples 16 --model {NAME} --input_size 32 --batch_size 8"
FINE = "run/checkpoint-last.pth"
RUN = f"--checkpoint {FINE}"
EVAL = "--data_path images --num_workers 0"
COMMANDS = [
    f"{TRAIN} --output_dir out --init",
    f"{TRAIN} --output_dir out --objective imae --mix_group 8 --teacher",
    f"{TRAIN} --output_dir out --resume",
    f"evaluate knn {EVAL} --output_dir out --checkpoint",
    f"evaluate linear {EVAL} {RUN} --output_dir out --batch_size 8 --resume",
    f"evaluate finetune {EVAL} {RUN} --output_dir out --eval --resume",
    f"evaluate finetune {EVAL} {RUN} --output_dir out --batch_size 8 --resume",
    f"evaluate separability {EVAL} {RUN} --output_dir out --teacher {FINE} --others",
    f"evaluate separability {EVAL} {RUN} --output_dir out --teacher",
    "evaluate reconstruct --data_path images --output_dir out --checkpoint",
    "evaluate weights --output_dir out --checkpoint",
    "evaluate attention --data_path images --output_dir out --checkpoint",
    "export --to timm out/a.pth",
    "import_ out/a.pth",
]
"""Commands up to a flag that takes a checkpoint; export and import take it first."""


@pytest.mark.parametrize(
    ("command", "name"),
    [*((command, "big.pth") for command in COMMANDS), ("export --to timm out/a.pth", "hub")],
)
def test_no_command_passes_the_advice_on(files, command, name, capfd, monkeypatch):
    monkeypatch.chdir(files)
    program, *arguments = shlex.split(command)
    takes_first = program in ("export", "import_")
    arguments = [name, *arguments] if takes_first else [*arguments, name]
    assert getattr(cli, program)([*arguments, "--debug"]) == 2
    text = capfd.readouterr().err
    assert "is not a checkpoint that can be read safely (it" in text
    assert not any(word in text for word in ADVICE)
    assert not (files / "harm").exists()
