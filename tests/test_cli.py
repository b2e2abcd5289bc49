"""The commands end to end on small images: train, stop, kill, resume, and fail clearly."""

import json
import signal
import subprocess
import sys
import time

import pytest
import torch
from back_ends import AVAILABLE
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from toy_images import save_gray

from fastimae import cli
from fastimae.engine.checkpoint import load_checkpoint
from fastimae.loaders import BetonWriter
from fastimae.models import create_model
from fastimae.pictures import reconstruction as reconstruct
from fastimae.pictures.reconstruction import draw_grid

MODEL = "--model mae_vit_nano_patch16 --input_size 32"
IMAE = "--objective imae --mix_group 8"
BASE = f"{MODEL} --batch_size 8 --warmup_epochs 1 --blr 1e-2 --device cpu"
THREE_EPOCHS = f"{BASE} --epochs 3 {IMAE} --save_freq 50 --vis_freq 0"


OWN_DATASET = """
from torchvision.datasets import ImageFolder
from torchvision.transforms import ColorJitter

def plain():
    return ImageFolder("{0}")

def train():
    return ImageFolder("{0}", ColorJitter(0.5, 0.5))
"""
"""A user's datasets; the second has a transform that draws from torch's generator."""


@pytest.fixture(scope="module", autouse=True)
def _no_pictures():
    """Replace the picture, which has 48 parts: drawing it takes as long as 100 steps of these
    models."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(reconstruct, "draw_grid", save_gray)
        yield


@pytest.fixture
def pictures(monkeypatch):
    """Let runs of this process draw their pictures."""
    monkeypatch.setattr(reconstruct, "draw_grid", draw_grid)


@pytest.fixture(scope="session")
def beton(image_folder, tmp_path_factory):
    path = tmp_path_factory.mktemp("beton") / "images.beton"
    assert cli.convert([str(image_folder), str(path), "--workers", "1"]) == 0
    return path


@pytest.fixture(scope="module")
def own_datasets(image_folder, tmp_path_factory):
    path = tmp_path_factory.mktemp("own") / "own.py"
    path.write_text(OWN_DATASET.format(image_folder))
    return path


@pytest.fixture(scope="module")
def source(image_folder, beton, own_datasets):
    return {
        "ffcv": f"--ffcv {beton}",
        "dali": f"--dali {beton}",
        "data_path": f"--data_path {image_folder}",
        "dataset": f"--dataset {own_datasets}:train",
    }


def train(command):
    return cli.train(command.split())


def launch(command):
    """Start the command as a separate process, in the background."""
    return subprocess.Popen(
        [sys.executable, "-m", "fastimae.cli", *command.split()],
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip


def wait_for_step(step, path, process, seconds=90):
    """Wait for a checkpoint that was saved after `step` (epoch, step) of its run."""
    deadline = time.monotonic() + seconds
    while not path.exists() or step_of(path) <= step:
        assert process.poll() is None, process.communicate()[0]
        assert time.monotonic() < deadline, f"{path} did not appear"
        time.sleep(0.1)  # reading a checkpoint takes time from the run


def step_of(path):
    content = load_checkpoint(path)
    return content["epoch"], content["step"]


def log_of(folder):
    return [json.loads(line) for line in (folder / "log.txt").read_text().splitlines()]


def assert_same_training(a, b):
    """Check for equal bits in weights and optimizer state."""
    first, second = (load_checkpoint(folder / "checkpoint-last.pth") for folder in (a, b))
    for name, value in first["model"].items():
        assert torch.equal(value, second["model"][name]), name
    for number, state in first["optimizer"]["state"].items():
        for name, value in state.items():
            assert torch.equal(value, second["optimizer"]["state"][number][name]), (number, name)
    assert first["loader"] == second["loader"] and first["epoch"] == second["epoch"]


def test_mae_then_imae_with_it_as_teacher(source, tmp_path, request):
    mae, imae = tmp_path / "mae", tmp_path / "imae"
    assert train(f"{source['ffcv']} {BASE} --epochs 6 --vis_freq 0 --output_dir {mae}") == 0
    teacher = mae / "checkpoint-last.pth"
    request.getfixturevalue("pictures")
    command = f"{source['ffcv']} {BASE} --epochs 6 --vis_freq 0 --output_dir {imae} {IMAE}"
    assert train(f"{command} --teacher {teacher} --same_class_ratio 0.5") == 0
    first, last = log_of(mae)[0], log_of(mae)[-1]
    assert last["train_loss"] < 0.9 * first["train_loss"]
    first, last = log_of(imae)[0], log_of(imae)[-1]
    parts = ["recon_subordinate", "recon_dominant", "latent_subordinate", "latent_dominant"]
    for part in parts:
        assert last[f"train_{part}"] < first[f"train_{part}"], part
    assert last["train_loss"] == pytest.approx(sum(last[f"train_{part}"] for part in parts))
    assert last["same_class_ratio"] == pytest.approx(0.5, abs=0.05)
    files = {p.name for p in imae.iterdir()}
    assert {"checkpoint-0.pth", "checkpoint-5.pth", "checkpoint-last.pth"} <= files
    assert {"log.txt", "reconstruction.png"} <= files
    assert any(name.startswith("events.out.tfevents") for name in files)


def test_checkpoint_is_complete_and_plain(source, tmp_path):
    assert train(f"{source['ffcv']} {BASE} --epochs 1 --output_dir {tmp_path}") == 0
    content = torch.load(tmp_path / "checkpoint-last.pth", weights_only=True)
    model = create_model("mae_vit_nano_patch16", img_size=32)
    model.load_state_dict(content["model"])  # strict: encoder and decoder, nothing else
    assert type(content["args"]) is dict and content["args"]["model"] == "mae_vit_nano_patch16"
    assert content["args"]["input_size"] == [32]


def test_bf16_tracks_fp32(source, tmp_path):
    for precision in ("fp32", "bf16"):
        command = f"{source['ffcv']} {BASE} --epochs 2 --precision {precision} {IMAE}"
        assert train(f"{command} --output_dir {tmp_path / precision}") == 0
    exact, rough = log_of(tmp_path / "fp32"), log_of(tmp_path / "bf16")
    for a, b in zip(exact, rough, strict=True):
        assert a["train_loss"] != b["train_loss"]
        assert a["train_loss"] == pytest.approx(b["train_loss"], rel=0.01)


def test_tensorboard_has_maes_tags_against_epoch_x_1000(source, tmp_path):
    command = f"{source['ffcv']} {BASE} --epochs 2 --log_steps 3 --output_dir {tmp_path / 'run'}"
    assert train(f"{command} --log_dir {tmp_path / 'board'}") == 0
    board = EventAccumulator(str(tmp_path / "board")).Reload()
    tags = {"train_loss", "lr", "img_per_s", "mfu", "memory_gb", "data_wait"}
    assert tags <= set(board.Tags()["scalars"])
    assert [event.step for event in board.Scalars("train_loss")] == [167, 500, 1000, 1500, 2000]
    logged = [line["train_loss"] for line in log_of(tmp_path / "run")]
    values = [event.value for event in board.Scalars("train_loss")]
    means = (values[0] + 2 * values[1] + 3 * values[2]) / 6, sum(values[3:]) / 2
    assert means == pytest.approx(logged, rel=1e-5)


def test_the_same_command_gives_the_same_weights(source, tmp_path):
    for name, workers in (("a", 0), ("b", 4)):
        command = f"{source['ffcv']} {BASE} --epochs 2 --num_workers {workers} {IMAE}"
        assert train(f"{command} --output_dir {tmp_path / name}") == 0
    assert_same_training(tmp_path / "a", tmp_path / "b")


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


KILLED = """
import contextlib, json, os, random, signal, sys, threading
import torch
from fastimae import build, cli

def train_and_die(argv, last, wait):
    save, saved = torch.save, []

    def counting(*args):
        save(*args)
        saved.append(1)
        if len(saved) == last:
            threading.Timer(wait, os.kill, (os.getpid(), signal.SIGKILL)).start()

    torch.save = counting
    os.setsid()
    cli.train(argv)
    os._exit(1)

for argv in json.loads(sys.argv[1]):
    moment = random.randrange(2, 5), random.uniform(0, 0.05)
    child = os.fork() or train_and_die(argv, *moment)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL
    with contextlib.suppress(ProcessLookupError):  # a worker that just starts does not notice
        os.killpg(child, signal.SIGKILL)
"""
"""Trains in a process for each command, and is killed at a random moment after one of the first
saves, even on a slow machine."""
WITH_WORKERS = {"ffcv": 4, "dataset": 2} | ({"dali": 2} if "dali-1" in AVAILABLE else {})
"""Sources, and the workers of runs that are killed."""


@pytest.fixture(scope="module")
def killed(source, tmp_path_factory):
    """Start a run for each source that is then killed; return the folder and command of each."""
    folders = {kind: tmp_path_factory.mktemp(kind) for kind in WITH_WORKERS}
    commands = {
        kind: f"{source[kind]} {THREE_EPOCHS} --num_workers {workers} --save_steps 2 "
        f"--output_dir {folders[kind]}"
        for kind, workers in WITH_WORKERS.items()
    }
    lines = json.dumps([command.split() for command in commands.values()])
    said = tmp_path_factory.mktemp("said") / "said.txt"  # a worker would keep a pipe open
    with said.open("w") as file:
        program = [sys.executable, "-c", KILLED, lines]
        done = subprocess.run(program, stdout=file, stderr=file, timeout=150, check=False)
    assert done.returncode == 0, said.read_text()[-3000:]
    return {kind: (folders[kind], commands[kind]) for kind in WITH_WORKERS}


@pytest.mark.parametrize("kind", ["ffcv", "dali", "dataset"])
def test_kill_and_resume_equals_an_uninterrupted_run(source, killed, tmp_path, kind):
    if kind not in WITH_WORKERS:
        pytest.skip("DALI is not installed")
    folder, command = killed[kind]
    assert step_of(folder / "checkpoint-last.pth") < (2, 0), "too late to prove anything"
    assert train(f"{command} --resume auto") == 0
    straight = f"{source[kind]} {THREE_EPOCHS} --num_workers 0 --output_dir {tmp_path}"
    assert train(straight) == 0
    assert_same_training(tmp_path, folder)
    assert [line["epoch"] for line in log_of(folder)] == list(range(3))
    for a, b in zip(log_of(tmp_path), log_of(folder), strict=True):
        assert a["train_loss"] == pytest.approx(b["train_loss"], rel=1e-12)


def test_sigterm_saves_mid_epoch_and_exits_0(source, tmp_path):
    command = f"{source['ffcv']} {BASE} --output_dir {tmp_path} --save_steps 3"
    process = launch(f"{command} --epochs 1000")
    last = tmp_path / "checkpoint-last.pth"
    wait_for_step((0, 0), last, process)
    before = step_of(last)
    wait_for_step(before, last, process)
    process.send_signal(signal.SIGTERM)
    output = process.communicate(timeout=60)[0]
    assert process.returncode == 0, output
    assert "--resume auto" in output
    after = load_checkpoint(last)
    assert (after["epoch"], after["step"]) > before
    assert train(f"{command} --resume auto --epochs {after['epoch'] + 2}") == 0
    assert log_of(tmp_path)[-1]["epoch"] == after["epoch"] + 1


def test_repeated_augmentation_lengthens_the_epoch(source, tmp_path):
    command = f"{source['ffcv']} {BASE} --objective imae --mix_group 4 --epochs 1"
    assert train(f"{command} --output_dir {tmp_path / 'once'}") == 0
    assert train(f"{command} --output_dir {tmp_path / 'twice'} --repeated_aug 2") == 0
    once, twice = (load_checkpoint(tmp_path / n / "checkpoint-last.pth") for n in ("once", "twice"))
    assert twice["step"] == 2 * once["step"]
    for content in (once, twice):
        assert content["loader"]["step"] * content["loader"]["stride"] == 48  # images


def test_a_second_run_moves_the_first_aside(source, tmp_path, capsys):
    for epochs in (1, 2):
        assert train(f"{source['ffcv']} {BASE} --epochs {epochs} --output_dir {tmp_path}") == 0
    assert "previous-1" in capsys.readouterr().err
    assert load_checkpoint(tmp_path / "previous-1" / "checkpoint-last.pth")["epoch"] == 0
    assert load_checkpoint(tmp_path / "checkpoint-last.pth")["epoch"] == 1
    assert len(log_of(tmp_path)) == 2


def test_resuming_with_other_settings_says_so(source, tmp_path, capsys):
    command = f"{source['ffcv']} {BASE} --output_dir {tmp_path}"
    assert train(f"{command} --epochs 1") == 0
    assert train(f"{command} --epochs 2 --resume auto --mask_ratio 0.5 --num_workers 1") == 0
    warning = capsys.readouterr().err
    assert "--mask_ratio 0.75 -> 0.5" in warning and "--epochs 1 -> 2" in warning
    assert "num_workers" not in warning


def test_a_warm_up_longer_than_the_run_is_pointed_out(source, tmp_path, capsys):
    base = BASE.replace("--warmup_epochs 1 ", "")
    command = f"{source['ffcv']} {base} --epochs 1 --output_dir {tmp_path}"
    assert train(f"{command} --warmup_epochs 40") == 0
    assert "--warmup_epochs 40 is not below --epochs 1" in capsys.readouterr().err
    assert train(f"{command} --warmup_epochs 0.5") == 0
    assert "--warmup_epochs" not in capsys.readouterr().err


def test_bad_samples_are_replaced_and_counted(image_folder, beton, tmp_path):
    data = bytearray(beton.read_bytes())
    start = data.find(b"\xff\xd8\xff")
    data[start : start + 2] = b"\0\0"  # one sample is not a JPEG any more
    (tmp_path / "bad.beton").write_bytes(data)
    command = f"--ffcv {tmp_path / 'bad.beton'} {BASE} --epochs 1 --output_dir {tmp_path}"
    assert train(command) == 0
    assert log_of(tmp_path)[0]["bad_samples"] == 1
    assert train(f"{command} --max_bad_samples 0") == 2


def test_gray_and_oblong_images(source, tmp_path):
    base = BASE.replace("--input_size 32", "--input_size 32 48")
    command = f"{source['ffcv']} {base} --in_chans 1 --epochs 1"
    assert train(f"{command} --output_dir {tmp_path} --norm_pix_loss --mask_patch_size 16") == 0
    content = load_checkpoint(tmp_path / "checkpoint-last.pth")
    assert content["model"]["pos_embed"].shape == (1, 7, 128)
    assert content["model"]["decoder_pred.weight"].shape == (256, 128)


def teacher_of_another_size(tmp_path):
    other = create_model("mae_vit_tiny_patch16", img_size=32)
    torch.save({"model": other.state_dict()}, tmp_path / "tiny.pth")
    return f"{IMAE} --teacher {tmp_path / 'tiny.pth'}"


def truncated_beton(tmp_path, beton):
    (tmp_path / "cut.beton").write_bytes(beton.read_bytes()[:-500])
    return f"--ffcv {tmp_path / 'cut.beton'}"


def foreign_beton(tmp_path):
    (tmp_path / "text.beton").write_text("hello" * 1000)
    return f"--ffcv {tmp_path / 'text.beton'}"


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        ("--nope", "--nope"),
        ("--ffcv missing.beton", "missing.beton"),
        ("--data_path missing_dir", "missing_dir"),
        (truncated_beton, "cut.beton"),
        (foreign_beton, "text.beton"),
        ("", "--ffcv"),
        ("--synthetic --batch_size 999999", "--batch_size"),
        ("--synthetic --objective imae --mix_group 5", "--mix_group"),
        ("--synthetic --input_size 33", "--input_size"),
        ("--synthetic --mask_patch_size 24", "--mask_patch_size"),
        ("--synthetic --mask_ratio 0.99", "mask_ratio"),
        ("--synthetic --ignore_boundary 17", "--ignore_boundary 17 is not in 0..16"),
        ("--synthetic --model nothing", "--model"),
        ("--synthetic --precision fp16", "--precision"),
        ("--synthetic --device toaster", "--device"),
        ("--synthetic --init missing.pth", "missing.pth"),
        ("--synthetic --resume missing.pth", "missing.pth"),
        ("--synthetic --output_dir /dev/null/x", "--output_dir"),
        (teacher_of_another_size, "--teacher"),
    ],
    ids=lambda value: getattr(value, "__name__", str(value)),
)
def test_mistakes_are_one_line_and_exit_2(request, tmp_path, capsys, beton, flags, words):
    if callable(flags):
        known = {"tmp_path": tmp_path, "beton": beton}
        names = flags.__code__.co_varnames[: flags.__code__.co_argcount]
        flags = flags(*(known[name] for name in names))
        flags += "" if "--ffcv" in flags else " --synthetic"
    out = tmp_path / "out"
    assert train(f"{BASE} --output_dir {out} --epochs 1 {flags}") == 2
    message = capsys.readouterr().err.strip().splitlines()[-1]
    assert message.startswith("fastimae-train: error: ") and words in message
    assert not list(out.glob("*.pth"))


def test_a_last_save_that_fails_exits_2_and_keeps_the_earlier_checkpoint(
    source, tmp_path, monkeypatch, capsys
):
    command = f"{source['ffcv']} {BASE} --epochs 3 --output_dir {tmp_path}"
    saves = []
    real = torch.save

    def full_disk(content, file):
        saves.append(1)
        if len(saves) == 3:
            raise OSError(28, "No space left on device")
        real(content, file)

    monkeypatch.setattr(torch, "save", full_disk)
    assert train(command) == 2
    error = capsys.readouterr().err
    assert "No space left" in error and "--output_dir" in error and "Traceback" not in error
    monkeypatch.undo()
    assert load_checkpoint(tmp_path / "checkpoint-last.pth")["epoch"] == 1
    assert train(f"{command} --resume auto") == 0
    assert [line["epoch"] for line in log_of(tmp_path)] == [0, 1, 2]


def test_debug_keeps_the_traceback(source, tmp_path, capsys):
    command = f"--synthetic --synthetic_samples 64 {BASE} --output_dir {tmp_path} --init no.pth"
    assert train(command) == 2
    assert "Traceback" not in capsys.readouterr().err
    assert train(f"{command} --debug") == 2
    assert "Traceback" in capsys.readouterr().err
    assert "CheckpointError" in (tmp_path / "debug.log").read_text()


def test_a_bug_of_ours_is_not_hidden(monkeypatch, tmp_path):
    monkeypatch.setattr("fastimae.build.build_loader", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        train(f"--synthetic --output_dir {tmp_path} {MODEL} --debug")
    assert "ZeroDivisionError" in (tmp_path / "debug.log").read_text()


def test_help_teaches(capsys):
    with pytest.raises(SystemExit) as stop:
        train("--help")
    assert stop.value.code == 0
    text = capsys.readouterr().out
    for words in ("--ffcv", "--mask_ratio", "Share of patches that are masked", "(default: 0.75)"):
        assert words in text


def test_convert_verify_and_doctor(image_folder, tmp_path, capsys):
    out = tmp_path / "x.beton"
    assert cli.convert([str(image_folder), str(out), "--workers", "1", "--verify"]) == 0
    assert "48 images" in capsys.readouterr().err
    assert cli.convert([str(image_folder), str(out)]) == 2
    assert "--overwrite" in capsys.readouterr().err
    assert cli.convert([str(tmp_path / "nothing"), str(tmp_path / "y.beton")]) == 2
    assert "nothing" in capsys.readouterr().err
