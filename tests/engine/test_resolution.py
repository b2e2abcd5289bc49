"""--resolution_schedule: a run whose images grow is its parts, one after the other."""

import functools
import json

import pytest
import torch
import toy_images
from built_in import OBJECTIVES, build
from tape import record_on_tape
from tiny import tiny_model
from toy_trainer import CPU, step_of

from fastimae import cli
from fastimae.arguments import parse_training
from fastimae.engine import assemble as assembly
from fastimae.engine.assemble import assemble
from fastimae.engine.checkpoint import load_checkpoint
from fastimae.engine.plan import Plan
from fastimae.engine.resolution import described, try_sizes
from fastimae.engine.settings import StepSettings
from fastimae.engine.step import GraphedStep
from fastimae.loaders import DevicePrefetch, create_loader
from fastimae.objectives import MAE
from fastimae.pictures import reconstruction
from fastimae.settings import ConfigError

SCHEDULE = ("16@0", "24@1", "32@2")
SIZES = (16, 24, 32)
DATA = {"synthetic": True, "synthetic_samples": 12, "batch_size": 4, "mix_group": 2}
SETTINGS = {"cmae": {"proj_hidden_dim": 32, "proj_dim": 16}}


def objective_at(name, size):
    torch.manual_seed(0)
    made = functools.partial(tiny_model, img_size=size)
    return build(name, made, mask_ratio=0.5, **SETTINGS.get(name, {}))


def plan_of(**settings):
    return Plan(epochs=3, lr=1e-2, warmup_epochs=1, save_freq=1, **settings)


def trainer(folder, objective, precision="fp32", **plan):
    run, loader = plan_of(**plan), create_loader(input_size=(32,), **DATA)
    return assemble(
        objective, DevicePrefetch(loader, "cpu"), CPU, run=(run,),
        step_settings=StepSettings(precision=precision), workers=0, output_dir=folder, args={},
    )  # fmt: skip


def chained(name, precision):
    """Train an epoch at each size by hand; return the parts' objectives at their end."""
    objectives, optimizer = [], None
    for epoch, size in enumerate(SIZES):
        objective, plan = objective_at(name, size), plan_of()
        if objectives:
            before = objectives[-1].state_dict()
            kept = {n: x for n, x in before.items() if not n.endswith("pos_embed")}
            objective.load_state_dict(kept, strict=False)
        step = assembly.build_step(objective, StepSettings(precision=precision), plan, CPU)
        if optimizer:
            step.optimizer.load_state_dict(optimizer)
        loader = create_loader(input_size=(size,), **DATA)
        loader.set_epoch(epoch)
        for number, batch in enumerate(loader):
            objective.train()
            step([batch], plan.lr_at(epoch + number / len(loader), CPU))
        optimizer = step.optimizer.state_dict()
        objectives.append(objective)
    return objectives


@pytest.mark.parametrize(
    ("name", "precision"), [*((name, "fp32") for name in OBJECTIVES), ("imae", "bf16")]
)
def test_a_run_is_its_parts_chained_by_hand(name, precision, tmp_path):
    """Every weight, a teacher's or an average's, too; positions are those of --input_size."""
    run = trainer(tmp_path, objective_at(name, 32), precision, resolution_schedule=SCHEDULE)
    positions = {n: x.clone() for n, x in run.objective.state_dict().items() if "pos_embed" in n}
    assert run.run()
    parts = chained(name, precision)
    for epoch, part in enumerate(parts):
        content = load_checkpoint(tmp_path / f"checkpoint-{epoch}.pth")
        saved = {f"student.{name}": value for name, value in content["model"].items()}
        saved |= content.get("objective", {})
        for key, value in part.state_dict().items():
            if key in saved:
                expected = positions.get(key, value)
                assert torch.equal(saved[key], expected), (epoch, key)
    assert [line["input_size"] for line in lines(tmp_path)] == list(SIZES)


def lines(folder):
    return [json.loads(line) for line in (folder / "log.txt").read_text().splitlines()]


def test_mfu_is_that_of_the_size(tmp_path, monkeypatch):
    monkeypatch.setattr(assembly, "peak_rate", lambda *_: 1e12)
    run = trainer(tmp_path, objective_at("mae", 32), resolution_schedule=SCHEDULE)
    assert run.run()
    for line, size in zip(lines(tmp_path), SIZES, strict=True):
        flops = objective_at("mae", size).train_flops()
        assert line["mfu"] == pytest.approx(line["img_per_s"] * flops / 1e12, abs=1e-4)


def test_without_a_schedule_nothing_is_set_or_logged(tmp_path):
    run = trainer(tmp_path, objective_at("mae", 32))
    run.step.set_image_size = run.loader.set_image_size = None
    assert run.run() and "input_size" not in lines(tmp_path)[0]


@pytest.mark.parametrize("accum_iter", [1, 2])
def test_graphs_are_recorded_anew(accum_iter):
    plan, count = Plan(lr=1e-2, accum_iter=accum_iter), {"accum_iter": accum_iter}
    steps = [step_of(objective_at("mae", 32), plan, kind) for kind in (GraphedStep, GraphedStep)]
    recorded, plain = steps
    recorded.record, plain.failure = functools.partial(record_on_tape, recorded), RuntimeError()
    plain.prepared = True
    with create_loader(input_size=(32,), **DATA, **count) as loader:
        for size in (16, 24):
            loader.set_epoch(size)
            loader.set_image_size((size, size))
            for step in steps:
                step.set_image_size((size, size))
            batches = [batch for batch, _ in zip(loader, range(accum_iter), strict=False)]
            assert recorded(batches, 1e-2) == plain(batches, 1e-2)
            assert len(recorded.replays) == accum_iter and not plain.replays
    assert all(map(torch.equal, *([*step.objective.state_dict().values()] for step in steps)))


def test_a_run_says_what_it_saves():
    plan = Plan(epochs=10, resolution_schedule=("160@0", "224@5"))
    text = described(plan, {(160, 160): 1, (224, 224): 2})
    assert text == (
        "--resolution_schedule: 160 px from epoch 0 (0.50 x the FLOPs), 224 px from epoch 5; "
        "0.75 x the FLOPs of a run at 224 px"
    )
    assert described(plan, {(160, 160): None, (224, 224): None}).endswith("224 px from epoch 5")


def test_a_size_that_masks_do_not_fit_is_an_error_at_the_start():
    objective = MAE(tiny_model(), mask_unit=2)
    with pytest.raises(ConfigError, match=r"schedule, 24 pixels: a mask unit of 2 .* grid 3x3"):
        try_sizes(objective, plan_of(resolution_schedule=SCHEDULE[1:]))


@pytest.mark.parametrize(
    ("schedule", "words"),
    [
        ("160:0 224:5", "160:0: write SIZE@EPOCH, such as 160@0 192@40 224@70"),
        ("160@0 224@0.5", "224@0.5: write SIZE@EPOCH"),
        ("0@0 224@5", "0@0: write SIZE@EPOCH"),
        ("224@0", "needs two sizes or more: drop it"),
        ("160@1 224@5", "begins at epoch 1: begin with SIZE@0"),
        ("160@0 192@5 224@5", "epoch 5 does not come after 5"),
        ("160@0 224@5 224x224@7", "epoch 7 changes nothing, it keeps 224 pixels: drop it"),
        ("160@0 192@5", "ends with 192 pixels, and --input_size is 224: they must be the same"),
        ("160@0 224@9", "224 pixels from epoch 9 on would never be trained, as the last of "
                        "--epochs 9 is 8"),
        ("150@0 224@5", "150 pixels are not a multiple of the patch size 16 of the --model"),
        ("160x80@0 224@5", "160x80 pixels have another shape than --input_size 224"),
    ],
)  # fmt: skip
def test_an_impossible_schedule_is_an_error(schedule, words):
    command = f"--synthetic --epochs 9 --warmup_epochs 1 --resolution_schedule {schedule}"
    with pytest.raises(ConfigError) as error:
        parse_training("fastimae-train", command.split())
    assert words in str(error.value)


def test_a_schedule_may_be_one_text():
    """As it is quoted in a shell, or written in YAML."""
    quoted, listed = (
        plan_of(resolution_schedule=text) for text in ((" ".join(SCHEDULE),), SCHEDULE)
    )
    assert quoted.stages == listed.stages and len(listed.stages) == 3


def test_oblong_images_have_a_schedule(tmp_path, monkeypatch):
    """Pictures have the size of their epoch, and say so."""
    drawn = []
    monkeypatch.setattr(
        reconstruction, "draw_grid",
        lambda pictures, path, note: drawn.append((pictures["input"].shape[1:3], note))
        or toy_images.save_gray(pictures, path, note),
    )  # fmt: skip
    command = (
        "--synthetic --synthetic_samples 16 --batch_size 8 --model mae_vit_nano_patch8 "
        "--device cpu --input_size 32 16 --resolution_schedule 16x8@0 32x16@1 --mask_ratio 0.5 "
        f"--epochs 2 --warmup_epochs 0 --vis_freq 1 --num_workers 0 --output_dir {tmp_path}"
    )
    assert cli.train(command.split()) == 0
    assert [shape for shape, _ in drawn] == [(16, 8), (32, 16)]
    assert "16 x 8 pixels" in drawn[0][1] and "pixels" not in drawn[1][1]
    assert load_checkpoint(tmp_path / "checkpoint-0.pth")["model"]["pos_embed"].shape[1] == 9
