"""The benchmark of training steps: it counts right, checks before it times, keeps what it has."""

import dataclasses
import itertools
import json

import pytest
import torch
from fake_cuda_memory import CudaMemory
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.train import __main__ as command
from benchmarks.train import curve, measure
from benchmarks.train.cases import CASES, SMOKE_CASES, make_objective, train_flops
from benchmarks.train.ours import Ours, switched
from benchmarks.train.plain import Plain, PlainModels, host_tensors
from benchmarks.train.variants import Workshop, contestants, ladder

CPU = torch.device("cpu")
MAE_CASE, IMAE_CASE = SMOKE_CASES.values()


@pytest.mark.parametrize(
    ("name", "giga"),
    [
        ("mae_vit_base_patch16", 58.1),
        ("mae_vit_large_patch16", 123.8),
        ("imae_vit_base_patch16", 107.8),
    ],
)
def test_flops_of_the_large_models_are_those_worked_out_by_hand(name, giga):
    assert train_flops(CASES[name]) / 1e9 == pytest.approx(giga, rel=2e-3)


@pytest.mark.parametrize("name", ["imae_cifar10", "mae_vit_nano_patch8"])
def test_flops_are_those_that_torch_counts(name):
    """Of the plain pipeline, which embeds all patches: that is why it counts a little more."""
    case = dataclasses.replace({**CASES, **SMOKE_CASES}[name], batch_cpu=1)
    models = PlainModels(case, make_objective(case))
    with FlopCounterMode(display=False) as counter:
        models(*host_tensors(case, CPU)).backward()
    assert counter.get_total_flops() == pytest.approx(train_flops(case), rel=0.05)


def run(argv, tmp_path):
    file = tmp_path / "train.json"
    status = command.main(["--smoke", "--device", "cpu", "--no_compile", "--out", str(file), *argv])
    return status, json.loads(file.read_text())


def test_smoke_run(tmp_path, capsys):
    status, report = run(["--ladder", "--cases", "imae_vit_nano_patch8"], tmp_path)
    assert status == 0 and report["failed"] == {}
    assert {"device", "versions", "commit", "date", "command", "gemm"} <= set(report)
    assert [row["variant"] for row in report["results"]] == list(contestants(CPU))
    peak, flops = max(report["gemm"].values()), train_flops(IMAE_CASE)
    for row in report["results"] + report["ladder"]:
        assert row["img_per_s"] == pytest.approx(1e3 * row["batch_size"] / row["ms"])
        assert row["mfu"] == pytest.approx(row["img_per_s"] * flops / peak)
        assert row["ms_20"] <= row["ms"] <= row["ms_80"]
    assert all(row["memory_gb"] > 0 for row in report["results"])
    assert [row["variant"] for row in report["ladder"]] == list(ladder(IMAE_CASE, CPU))
    printed = capsys.readouterr().out
    assert "| imae_vit_nano_patch8 | fastimae | synthetic |" in printed
    assert "Ladder of imae_vit_nano_patch8" in printed
    assert (tmp_path / "train.png").stat().st_size > 1000


def test_fed_by_loaders(tmp_path, image_folder):
    from fastimae.cli import convert

    beton = tmp_path / "small.beton"
    assert convert([str(image_folder), str(beton)]) == 0
    fed = ["--no_table", "--data", str(beton), "--folder", str(image_folder)]
    speed = ["--seconds", "0.2", "--num_workers", "1", "--cases", "imae_vit_nano_patch8"]
    status, report = run([*fed, *speed], tmp_path)
    assert status == 0, report["failed"]
    plain, ours = report["results"]
    assert (plain["variant"], ours["variant"]) == ("reference", "fastimae")
    assert ours["data"] == "small.beton" and "ImageFolder" in plain["data"]
    assert all(0 <= row["data_wait"] <= 1 for row in (plain, ours))
    assert ours["x_reference"] == pytest.approx(ours["img_per_s"] / plain["img_per_s"])


def test_only_some_variants(tmp_path):
    """Without the reference nothing is told in times of it."""
    one = ["--cases", "mae_vit_nano_patch8", "--variants", "fastimae"]
    status, report = run(one, tmp_path)
    (row,) = report["results"]
    assert status == 0 and row["variant"] == "fastimae" and row["x_reference"] is None
    status, report = run([*one, "reference", "--rounds", "1"], tmp_path)
    plain, ours = report["results"]
    assert status == 0 and plain["x_reference"] == 1
    assert ours["x_reference"] == pytest.approx(ours["img_per_s"] / plain["img_per_s"])


def test_a_wrong_loss_fails_the_case_and_the_others_are_kept(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(
        "benchmarks.train.plain.mixture_loss",
        lambda *args: torch.tensor(3.0, requires_grad=True) * args[0].cls_token.sum(),
    )
    status, report = run([], tmp_path)
    assert status == 1
    assert list(report["failed"]) == ["imae_vit_nano_patch8"]
    assert "AssertionError" in report["failed"]["imae_vit_nano_patch8"]
    assert {row["case"] for row in report["results"]} == {"mae_vit_nano_patch8"}
    assert "FAILED: imae_vit_nano_patch8" in capsys.readouterr().out


def test_where_torch_compile_fails_the_row_says_so(monkeypatch):
    monkeypatch.setattr(PlainModels, "compile_blocks", lambda self: 1 / 0)
    workshop = Workshop(MAE_CASE, CPU, share=False)
    variant, note = measure.checked(MAE_CASE, "tuned", Plain(compiled=True), workshop)
    assert note == "without torch.compile: ZeroDivisionError"
    assert not variant.plain.compiled and variant().isfinite()


def test_variants_have_weights_of_their_own():
    """The same numbers, and training one changes no other."""
    workshop = Workshop(IMAE_CASE, CPU, share=False)
    plain = [workshop.build(Plain()).models for _ in range(2)]
    state = workshop._objective.student.state_dict()
    for models in plain:
        for name, tensor in models.student.state_dict().items():
            assert torch.equal(tensor, state[name])
    plain[0].student.mask_token.data += 1
    assert not torch.equal(plain[0].student.mask_token, plain[1].student.mask_token)
    assert torch.equal(plain[1].student.mask_token, workshop._objective.student.mask_token)
    assert not any(parameter.requires_grad for parameter in plain[0].teacher.parameters())
    assert not plain[0].student.pos_embed.requires_grad and plain[0].student.norm.bias.requires_grad


def test_the_ladder_begins_at_the_reference_and_ends_at_ours():
    for device in (CPU, torch.device("cuda")):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("torch.cuda.get_device_capability", lambda *_: (9, 0))
            rungs = list(ladder(IMAE_CASE, device).values())
            names = list(ladder(MAE_CASE, device))
        assert rungs[0] == Plain()
        assert "both images in one batch" not in names
        if device.type == "cuda":
            assert rungs[-1] == Ours()
        assert all(a != b for a, b in itertools.pairwise(rungs))


def test_what_is_switched_off_is_not_done():
    """The decoder computes rows that no loss sees, and runs once for each image, or not."""
    objective = make_objective(IMAE_CASE)
    batch = measure.Workshop(IMAE_CASE, CPU, share=False).build(Ours()).host
    block, seen = objective.student.decoder_blocks[-1], []
    block.register_forward_hook(lambda _, inputs, out: seen.append(tuple(out[1].shape[:2])))
    for change in ({}, {"masked_only": False}, {"batched": False}):
        with switched(objective, Ours(**change)):
            objective(batch)
    assert seen == [(16, 12), (16, 17), (8, 12), (8, 12)]


def test_memory_of_a_recorded_variant_is_its_activations_too(monkeypatch):
    """They count while the step is recorded; replays allocate nothing."""
    memory = CudaMemory(monkeypatch, allocated=5e9)  # of other variants
    memory.touch(70e9)
    with measure.peak_memory(torch.device("cuda")) as watch:
        memory.keep(2e9)
        step = memory.recorded(10e9, warm_up=measure.UNTIL_RECORDED - 1)
        step()  # for its loss
        assert watch(step) == 12


def test_curves_agree_and_a_wrong_one_is_seen(tmp_path, monkeypatch):
    file = tmp_path / "curve.json"
    short = ["--smoke", "--device", "cpu", "--batch_size", "8", "--steps", "25", "--out", str(file)]
    assert curve.main(short) == 0
    report = json.loads(file.read_text())
    assert len(report["curve"]["fastimae"]) == 25 and report["passed"]
    worse = {**report["curve"], "fastimae": [1.1 * x for x in report["curve"]["fastimae"]]}
    assert curve.verdict(worse)["difference"] == pytest.approx(0.1, abs=0.02)
    assert not curve.verdict(worse)["passed"]
    flat = {name: [1.0] * 25 for name in worse}
    assert not curve.verdict(flat)["fell"]


def test_errors_are_one_line(capsys):
    assert command.main(["--cases", "resnet50"]) == 2
    assert "--cases resnet50" in capsys.readouterr().err
    assert command.main(["--folder", "images"]) == 2
    assert "--data" in capsys.readouterr().err
