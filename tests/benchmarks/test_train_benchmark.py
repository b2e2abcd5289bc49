"""The benchmark of training steps: it counts correctly, and checks before it times."""

import dataclasses
import itertools
import json
import sys

import pytest
import torch
from fake_cuda_memory import CudaMemory
from operations import operations
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.rungs import ALWAYS, ASKED, FP8, PAIRS, START
from benchmarks.step_model.assumptions import CARDS
from benchmarks.step_model.step import ladder as step_ladder
from benchmarks.step_model.step import model_of
from benchmarks.train import __main__ as command
from benchmarks.train import curve, measure, switches
from benchmarks.train.cases import CASES, SMOKE_CASES, make_batch, make_objective, train_flops
from benchmarks.train.fastimae_step import FastImaeModels, FastImaeStep
from benchmarks.train.reference_step import ReferenceModels, ReferenceStep, host_tensors
from benchmarks.train.switches import switched
from benchmarks.train.tables import NO_FP8, ladder_table
from benchmarks.train.variants import (
    ON_CPU,
    SWITCHES,
    VariantBuilder,
    ladder,
    main_variants,
    newest,
)
from fastimae.kernels._attention_choice import Pass
from fastimae.kernels._launch import default_impl

CPU = torch.device("cpu")
MAE_CASE, IMAE_CASE = SMOKE_CASES.values()
DEEP = dataclasses.replace(CASES["imae_cifar10"], batch_cpu=8)
"""A case with several decoder blocks: a single one takes no mask tokens from a table."""
H100, MODEL = CARDS["H100"], model_of(CASES["mae_vit_base_patch16"], 256)


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
    """The plain pipeline embeds all patches, so it counts a little more."""
    case = dataclasses.replace({**CASES, **SMOKE_CASES}[name], batch_cpu=1)
    models = ReferenceModels(case, make_objective(case))
    with FlopCounterMode(display=False) as counter:
        models(*host_tensors(case, CPU)).backward()
    assert counter.get_total_flops() == pytest.approx(train_flops(case), rel=0.05)


def run(argv, tmp_path):
    file = tmp_path / "train.json"
    status = command.main(["--smoke", "--device", "cpu", "--no_compile", "--out", str(file), *argv])
    return status, json.loads(file.read_text())


def test_smoke_run(tmp_path, capsys):
    status, report = run(["--ladder", "--rounds", "2", "--cases", "imae_vit_nano_patch8"], tmp_path)
    assert status == 0 and report["failed"] == {}
    assert {"device", "versions", "commit", "date", "command", "gemm"} <= set(report)
    assert [row["variant"] for row in report["results"]] == list(main_variants(CPU))
    peak = max(report["gemm"].values())
    for row in report["results"] + report["ladder"]:
        assert row["img_per_s"] == pytest.approx(1e3 * row["batch_size"] / row["ms"])
        flops = train_flops(dataclasses.replace(IMAE_CASE, reciprocal=row["variant"] == PAIRS))
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


def test_what_the_plain_pipeline_lacks_is_measured_alone(tmp_path, monkeypatch):
    case = dataclasses.replace(MAE_CASE, name="rmae", objective="rmae")
    monkeypatch.setitem(SMOKE_CASES, "rmae", case)
    status, report = run(["--ladder", "--cases", "rmae"], tmp_path)
    (row,) = report["results"]
    assert status == 0 and row["variant"] == "fastimae" and row["x_reference"] is None
    assert row["mfu"] > 0 and report["ladder"] == []


def test_only_some_variants(tmp_path):
    """Without the reference, no row is compared with it."""
    one = ["--cases", "mae_vit_nano_patch8", "--variants", "fastimae"]
    status, report = run([*one, "--rounds", "2"], tmp_path)
    (row,) = report["results"]
    assert status == 0 and row["variant"] == "fastimae" and row["x_reference"] is None
    status, report = run([*one, "reference", "--rounds", "1"], tmp_path)
    plain, ours = report["results"]
    assert status == 0 and plain["x_reference"] == 1
    assert ours["x_reference"] == pytest.approx(ours["img_per_s"] / plain["img_per_s"])


def test_a_wrong_loss_fails_the_case_and_the_others_are_kept(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(
        "benchmarks.train.reference_step.mixture_loss",
        lambda *args: torch.tensor(3.0, requires_grad=True) * args[0].cls_token.sum(),
    )
    two = ["--variants", "reference", "fastimae"]
    status, report = run([*two, "--rounds", "1"], tmp_path)
    assert status == 1
    assert list(report["failed"]) == ["imae_vit_nano_patch8"]
    assert "AssertionError" in report["failed"]["imae_vit_nano_patch8"]
    assert {row["case"] for row in report["results"]} == {"mae_vit_nano_patch8"}
    assert "FAILED: imae_vit_nano_patch8" in capsys.readouterr().out


def test_where_torch_compile_fails_the_row_says_so(monkeypatch):
    monkeypatch.setattr(ReferenceModels, "compile_blocks", lambda self: 1 / 0)
    builder = VariantBuilder(MAE_CASE, CPU, share=False)
    variant, note = measure.checked(MAE_CASE, "tuned", ReferenceStep(compiled=True), builder)
    assert note == "without torch.compile: ZeroDivisionError"
    assert not variant.variant.compiled and variant().isfinite()


def test_variants_have_weights_of_their_own():
    """They have the same numbers, and training one changes no other."""
    builder = VariantBuilder(IMAE_CASE, CPU, share=False)
    plain = [builder.build(ReferenceStep()).models for _ in range(2)]
    state = builder._objective.student.state_dict()
    for models in plain:
        for name, tensor in models.student.state_dict().items():
            assert torch.equal(tensor, state[name])
    plain[0].student.mask_token.data += 1
    assert not torch.equal(plain[0].student.mask_token, plain[1].student.mask_token)
    assert torch.equal(plain[1].student.mask_token, builder._objective.student.mask_token)
    assert not any(parameter.requires_grad for parameter in plain[0].teacher.parameters())
    assert not plain[0].student.pos_embed.requires_grad and plain[0].student.norm.bias.requires_grad


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_the_ladder_begins_at_the_reference_and_ends_at_ours(device, monkeypatch):
    monkeypatch.setattr("torch.cuda.get_device_capability", lambda *_: (9, 0))
    monkeypatch.setattr("benchmarks.train.variants.find_spec", lambda name: name)
    # Whether bf16 is faster depends on the CPU.
    monkeypatch.setattr("benchmarks.train.variants.resolve_precision", lambda *_: "bf16")
    device = torch.device(device)
    rungs, names = ladder(IMAE_CASE, device), list(ladder(MAE_CASE, device))
    assert rungs["reference"] == next(iter(rungs.values())) == ReferenceStep()
    assert "both images in one batch" not in names and not {*ASKED} & {*names}
    assert all(a != b for a, b in itertools.pairwise(rungs.values()))
    last = rungs[ALWAYS[-1]]
    on_cpu = FastImaeStep(triton=False, compiled=False, cuda_graph=False)
    assert last == (FastImaeStep() if device.type == "cuda" else on_cpu)
    if device.type == "cuda":
        assert (*names[-1 - len(ALWAYS) :],) == (START, *ALWAYS)
        assert (*rungs,)[-len(ASKED) :] == ASKED
        assert names[-1 - len(ALWAYS) :] == list(step_ladder(H100, MODEL))


def test_a_teacher_in_fp8_needs_torchao_and_a_gpu_that_has_it(monkeypatch):
    for capability, there, expected in (((8, 0), True, False), ((9, 0), False, False)):
        monkeypatch.setattr("torch.cuda.get_device_capability", lambda *_, c=capability: c)
        monkeypatch.setattr("benchmarks.train.variants.find_spec", lambda _, t=there: t or None)
        names = ladder(IMAE_CASE, torch.device("cuda"))
        assert PAIRS in names and (FP8 in names) == expected


def test_new_rungs_are_those_from_the_graph_on(monkeypatch):
    monkeypatch.setattr("torch.cuda.get_device_capability", lambda *_: (8, 0))
    rungs = newest(IMAE_CASE, torch.device("cuda"))
    assert [*rungs] == [START, *ALWAYS, PAIRS]
    assert all(way == ladder(IMAE_CASE, torch.device("cuda"))[name] for name, way in rungs.items())
    assert [*newest(MAE_CASE, CPU)][1:] == [*ON_CPU]


def test_a_ladder_has_rows_before_all_of_it_is_built():
    ways = newest(MAE_CASE, CPU)
    first, *others = ways
    rows = measure.measure_case(MAE_CASE, ways, CPU, 1e12, share=True)
    assert [(row["variant"], row["rounds"]) for row in next(rows)] == [(first, 1)]
    *_, last = rows
    assert [row["variant"] for row in last] == [first, *others]
    shown = ladder_table(last)
    assert "x None" not in shown and NO_FP8 not in shown
    assert NO_FP8 in ladder_table([{**row, "variant": PAIRS} for row in last])


def test_what_is_switched_off_is_not_done():
    """By default the decoder skips rows that no loss uses and takes both images at once."""
    objective = make_objective(IMAE_CASE)
    batch = measure.VariantBuilder(IMAE_CASE, CPU, share=False).build(FastImaeStep()).host
    block, seen = objective.student.decoder_blocks[-1], []
    block.register_forward_hook(lambda _, inputs, out: seen.append(tuple(out[1].shape[:2])))
    for change in ({}, {"masked_only": False}, {"batched": False}):
        with switched(objective, FastImaeStep(**change)):
            objective(batch)
    assert seen == [(16, 12), (16, 17), (8, 12), (8, 12)]


def asked(monkeypatch, **change):
    """Run a step of a mixture; return what it asks for.

    That is: what `use_triton` is asked for, by op; attention's choice; the MLP's preference; how
    many sequences the teacher gets; and which operations run.
    """
    ways, teacher = {}, []
    for op in ("add_norm", "attention"):
        module = sys.modules[f"fastimae.kernels.{op}"]
        real = module.use_triton
        monkeypatch.setattr(
            module,
            "use_triton",
            lambda op, impl, *args, real=real, **rest: (
                ways.setdefault(op, impl),
                real(op, impl, *args, **rest),
            )[1],
        )
    objective, ours = make_objective(DEEP), FastImaeStep(**change)
    objective.teacher.blocks[0].register_forward_hook(lambda _, x, out: teacher.append(len(x[0])))
    batch = make_batch(ours.on(DEEP), 8)
    with switched(objective, ours):
        seen = operations(lambda: objective(batch))
        passes = sys.modules["fastimae.kernels.attention"].choose(197, 32, CPU)[1:3]
        return ways, passes, default_impl("mlp"), teacher, seen


def test_each_rung_changes_what_it_says_and_nothing_else(monkeypatch):
    ways, passes, mlp, teacher, done = asked(monkeypatch)
    assert (ways["add_norm"], mlp, teacher) == ("auto", "auto", [16])
    plain = asked(monkeypatch, norms=False)
    assert plain[0]["add_norm"] == "torch" and plain[1:4] == (passes, mlp, teacher)
    old = asked(monkeypatch, tiles=False)
    assert old[1] == (Pass(32, 8, 1),) * 2 != passes and old[2:] == (mlp, teacher, done)
    other = asked(monkeypatch, epilogues=False)
    assert other == (ways, passes, "torch", teacher, done)
    every = asked(monkeypatch, shared_tokens=False)
    assert every[:4] == (ways, passes, mlp, teacher) and every[4] != done
    assert asked(monkeypatch, pairs=True)[:4] == (ways, passes, mlp, [8])
    for update in (True, False):
        models = FastImaeModels(make_objective(MAE_CASE))
        variant = FastImaeStep(one_pass=update).build(MAE_CASE, models, CPU)
        assert variant().isfinite()
        assert bool(models._optimizers) != update  # torch's is kept


def test_without_norms_attention_leaves_the_bias_to_another_pass(monkeypatch):
    """The op gets no bias, and the bias still gets its gradient."""
    calls, real = [], switches.attention
    monkeypatch.setattr(switches, "attention", lambda *args: calls.append(len(args)) or real(*args))
    for norms, expected in ((True, set()), (False, {1})):
        objective = make_objective(MAE_CASE)
        with switched(objective, FastImaeStep(norms=norms)):
            objective(make_batch(MAE_CASE, 8))
        assert {*calls} == expected
    qkv, bias = torch.randn(2, 5, 3, 2, 8), torch.randn(48, requires_grad=True)
    grads = [
        torch.autograd.grad(op(qkv, bias).square().sum(), bias)[0]
        for op in (real, switches.attention_then_bias)
    ]
    assert torch.equal(*grads) and grads[0].any()


def test_every_rung_has_the_loss_of_the_plain_pipeline():
    """With what a rung switches the other way round than by default, and with all defaults."""
    builder = VariantBuilder(DEEP, CPU, share=True)
    for name in ("defaults", *(name for name in SWITCHES if name != FP8)):
        field = next(iter(SWITCHES.get(name, ())), None)
        change = {field: not getattr(FastImaeStep, field)} if field else {}
        variant, _ = measure.checked(DEEP, name, FastImaeStep(**change), builder)
        assert variant().isfinite()


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
    assert command.main(["--rungs", "new"]) == 2
    assert "--ladder" in capsys.readouterr().err
