"""The commands end to end on small images: train, log, and fail clearly."""

import pytest
import torch
from cli.toy_runs import BASE, IMAE, MODEL, assert_same_training, log_of, train
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from fastimae import cli
from fastimae.engine.checkpoint import load_checkpoint
from fastimae.models import create_model


def test_mae_then_imae_with_it_as_teacher(source, tmp_path):
    mae, imae = tmp_path / "mae", tmp_path / "imae"
    assert train(f"{source['ffcv']} {BASE} --epochs 4 --vis_freq 0 --output_dir {mae}") == 0
    teacher = mae / "checkpoint-last.pth"
    command = f"{source['ffcv']} {BASE} --epochs 4 --vis_freq 0 --output_dir {imae} {IMAE}"
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
    assert {"checkpoint-0.pth", "checkpoint-3.pth", "checkpoint-last.pth"} <= files
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
