"""Several processes train as one does, sharded or not, with as little communication as possible."""

import pytest
import torch
from built_in import OBJECTIVES
from torch import nn

from fastimae.engine import parallel
from fastimae.engine.checkpoint import load_checkpoint
from fastimae.engine.distributed import World
from fastimae.engine.parallel import parallelise
from fastimae.engine.replica import Replica
from fastimae.models import create_model
from fastimae.objectives import MAE

ALONE = World(0, 1, torch.device("cpu"))
CLIP = 0.1  # as in ranks.py
RUNS = [(name, f"{name}_2") for name in OBJECTIVES]
RUNS += [(name, f"{name}_fsdp") for name in OBJECTIVES if name not in ("mae", "imae")]
RUNS += [("imae", "imae_3"), ("imae", "on_1"), ("imae", "on_2")]


@pytest.mark.parametrize(("objective", "name"), RUNS)
def test_any_number_of_processes_gives_the_same_losses(ranks, objective, name):
    """With accumulation and clipping. _3 and on_N: two sharding processes begin, N resume."""
    assert set(ranks.report[name]["codes"]) == {0}, ranks.output(name, 0)
    alone, several = (losses_of(ranks, run) for run in (f"{objective}_1", name))
    assert len(alone) == 2 and alone[-1]["train_loss"] < 0.95 * alone[0]["train_loss"]
    for line, expected in zip(several, alone, strict=True):
        assert line == pytest.approx(expected, rel=1e-5)


def losses_of(ranks, name):
    """Return the loss and its parts, epoch by epoch."""
    return [{k: v for k, v in line.items() if "train_" in k} for line in ranks.log(name)]


def test_images_that_keep_different_numbers_of_pixels_weigh_the_same(ranks):
    """On any process and in any micro-batch: --ignore_boundary."""
    one, two = ([line["train_loss"] for line in ranks.log(f"near_{size}")] for size in (1, 2))
    assert two == pytest.approx(one, rel=1e-5), ranks.output("near_2", 0)
    assert "of masked pixels count" in ranks.output("near_2", 0)


@pytest.mark.parametrize(("objective", "name"), RUNS)
def test_any_number_of_processes_gives_the_same_weights(ranks, objective, name):
    """The student's, and those of what else an objective trains or moves."""
    alone, several = (
        load_checkpoint(ranks.folder / run / "checkpoint-last.pth")
        for run in (f"{objective}_1", name)
    )
    weights, others = (one["model"] | one.get("objective", {}) for one in (alone, several))
    assert others.keys() == weights.keys()
    for key, value in weights.items():
        torch.testing.assert_close(others[key], value, rtol=1e-3, atol=1e-4, msg=key)
    for number, state in alone["optimizer"]["state"].items():
        for key, value in state.items():
            torch.testing.assert_close(
                several["optimizer"]["state"][number][key], value, rtol=1e-2, atol=1e-5
            )


def test_what_an_objective_owns_is_sharded_saved_and_resumed(ranks):
    """A predictor, a teacher that moves, a buffer and the student's average: sharded, stopped and
    resumed, compared with DDP."""
    for name in ("own_ddp", "own_stopped", "own_fsdp"):
        assert ranks.report[name]["codes"] == [0, 0], ranks.output(name, 0)
    ddp, stopped, fsdp = (
        load_checkpoint(ranks.folder / name / "checkpoint-last.pth")
        for name in ("own_ddp", "own_stopped", "own_fsdp")
    )
    losses = [[line["train_slow"] for line in ranks.log(name)] for name in ("own_ddp", "own_fsdp")]
    assert losses[1] == pytest.approx(losses[0], rel=1e-5)
    for part in ("model", "objective", "model_ema"):
        for key, value in ddp[part].items():
            torch.testing.assert_close(fsdp[part][key], value, rtol=1e-3, atol=1e-4, msg=key)
    assert ddp["model_ema_updates"] == fsdp["model_ema_updates"] == ddp["objective"]["updates"]
    assert ddp["objective"]["updates"] == 6 > stopped["objective"]["updates"] > 3
    teacher = "teacher.blocks.0.attn.qkv.weight"
    between = [state["objective"][teacher] for state in (stopped, fsdp)]
    assert (between[1] - between[0]).abs().max() > 1e-4
    shards = [torch.load(ranks.folder / "own_fsdp" / name) for name in _shards(ranks, "own_fsdp")]
    assert [len(rows[f"/objective/{teacher}"]) for rows in shards] == [len(between[0]) // 2] * 2


def _shards(ranks, name):
    index = torch.load(ranks.folder / name / "checkpoint-last.pth", weights_only=True)
    return index["shards"]


def test_two_processes_fine_tune_as_one(ranks):
    pytest.importorskip("timm")
    assert ranks.report["tuned_2"]["codes"] == [0, 0], ranks.output("tuned_2", 0)
    one, two = (ranks.log(f"tuned_{size}") for size in (1, 2))
    for name in ("train_loss", "test_loss"):
        assert [line[name] for line in two] == pytest.approx([line[name] for line in one], rel=1e-5)
    weights = [
        load_checkpoint(ranks.folder / f"tuned_{size}" / "checkpoint-last.pth")["model"]
        for size in (1, 2)
    ]
    for name, value in weights[0].items():
        torch.testing.assert_close(weights[1][name], value, rtol=1e-3, atol=1e-4, msg=name)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_sharding_changes_no_step(ranks, precision):
    seen = ranks.inside(0)
    whole, sharded = (seen[f"{kind} {precision}"]["losses"] for kind in ("ddp", "fsdp"))
    assert whole == pytest.approx(sharded, rel=1e-6)
    assert seen["ddp fp32"]["losses"] != seen["ddp bf16"]["losses"]


@pytest.mark.parametrize("kind", ["ddp", "fsdp"])
def test_accumulated_batches_cost_no_reduction(ranks, kind):
    """Gradients are averaged once per step, however many batches it has."""
    of_one, of_three = ranks.inside(0)[f"{kind} fp32"]["reductions"]
    assert of_one == of_three > 0


@pytest.mark.parametrize("run", ["ddp fp32", "fsdp fp32", "fsdp bf16"])
def test_clipping_takes_the_norm_over_all_processes(ranks, run):
    assert ranks.inside(0)[run]["norms"] == pytest.approx([CLIP, CLIP], rel=1e-4)


def test_the_main_process_draws_for_all(ranks):
    for name in ("imae_2", "imae_3"):
        assert (ranks.folder / name / "reconstruction.png").exists()


@pytest.mark.parametrize("all_used", [True, False])
def test_parameters_that_a_loss_leaves_out_are_looked_for_where_it_says_so(all_used, monkeypatch):
    monkeypatch.setattr(parallel, "DistributedDataParallel", lambda _, **settings: settings)
    objective = MAE(create_model("mae_vit_nano_patch8", img_size=32))
    objective.loss_uses_all = all_used
    settings = parallelise(objective, World(0, 2, ALONE.device), "ddp", "fp32").ddp
    assert settings["find_unused_parameters"] is not all_used


def test_what_cannot_be_sharded_is_named():
    with pytest.raises(ValueError, match=r"--parallel fsdp .* there is one"):
        parallelise(nn.Linear(2, 2), ALONE, "fsdp", "fp32")
    with pytest.raises(ValueError, match="--precision fp16"):
        parallelise(nn.Linear(2, 2), World(0, 2, ALONE.device), "fsdp", "fp16")
    layer = nn.Linear(2, 2)
    assert type(parallelise(layer, ALONE, "ddp", "fp32")) is Replica


def test_weights_that_buckets_do_not_take_are_named():
    objective = MAE(create_model("mae_vit_nano_patch8", img_size=32)).bfloat16()
    world = World(0, 2, torch.device("cpu"))
    with pytest.raises(ValueError, match="bfloat16: use --update torch"):
        parallelise(objective, world, "ddp", "bf16", in_buckets=True)
