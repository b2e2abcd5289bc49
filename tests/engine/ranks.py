"""Runs of one, two and three processes, forked as a launcher would start them.

    ranks.py FOLDER

One process imports everything and is forked into the processes of each run, which saves seconds per
process. FOLDER/NAME-RANK.txt has what they print; FOLDER/report.json has their exit statuses and
what `inside` recorded.
"""

import importlib.util
import json
import os
import shutil
import signal
import sys
from collections.abc import Callable
from pathlib import Path

import psutil
import torch
import torch.distributed.fsdp
import toy_images
from built_in import OBJECTIVES, flags_of
from forked import Reductions, get_ready, launch, tiny
from tiny import NANO
from torch import nn
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
from torch.distributed.launcher.api import LaunchConfig, elastic_launch

from fastimae import cli
from fastimae.engine import sharded
from fastimae.engine.checkpoint_file import CheckpointError
from fastimae.engine.distributed import World, join_world
from fastimae.engine.launcher import LaunchSettings
from fastimae.engine.optim import build_optimizer
from fastimae.engine.parallel import parallelise
from fastimae.engine.precision import DTYPES
from fastimae.engine.step import Step
from fastimae.engine.trainer import Trainer
from fastimae.loaders import create_loader
from fastimae.models.names import SIZES
from fastimae.objectives import IMAE

GLOBAL_BATCH, CLIP = 12, 0.1
COMMON = (
    "--synthetic --synthetic_samples 72 --num_workers 0 --device cpu --precision fp32 "
    "--model mae_vit_nano_patch16 --input_size 32 "
    "--epochs 2 --warmup_epochs 1 --blr 3e-2 --accum_iter 2 --clip_grad 0.5 --save_steps 2 "
    "--save_freq 9 --dist_timeout 600"
)
GROWING = COMMON.replace("patch16", "patch8") + " --resolution_schedule 16@0 32@1"
SETTINGS = f"{COMMON} {flags_of('imae')}"
OWN_OBJECTIVE = f"{COMMON} --objective slow_teacher:SlowTeacher --momentum 0.9 --model_ema 0.9"
NEAR = SETTINGS.replace("patch16", "patch8").replace("--epochs 2 --warmup_epochs 1", "--epochs 1")
NEAR += " --warmup_epochs 0 --ignore_boundary 3"
FINE_TUNING = (
    "finetune --device cpu --precision fp32 --num_workers 0 --epochs 2 --warmup_epochs 1 --lr 1e-3 "
    "--mixup 0 --cutmix 0 --drop_path 0 --clip_grad 0.5 --dist_timeout 60"
)


def main(folder: Path) -> None:
    SIZES["nano"] |= NANO
    get_ready(f"{COMMON} {flags_of(name)}" for name in OBJECTIVES)
    report = {}

    def train(
        name: str,
        size: int,
        flags: str = "",
        at_step: Callable = lambda *_: None,
        settings: str = SETTINGS,
    ) -> None:
        batch = f"--batch_size {GLOBAL_BATCH // size} --output_dir {folder / name}"
        command = f"{settings} {batch} {flags}".split()
        report[name] = launch(folder, name, size, lambda: run(command, at_step))

    for objective in OBJECTIVES:
        train_each(folder, train, objective)
    train("near_1", 1, settings=NEAR)
    train("near_2", 2, settings=NEAR)
    for size in (1, 2):
        shutil.copytree(folder / "imae_stopped", folder / f"on_{size}")
        train(f"on_{size}", size, "--resume auto")
    train("killed", 2, "--parallel fsdp", kill_main)
    shutil.copytree(folder / "killed", folder / "revived")
    train("revived", 1, "--resume auto")
    report["torchrun"] = launch(folder, "torchrun", 1, lambda: by_torchrun(folder / "torchrun"))
    shutil.copytree(folder / "torchrun", folder / "after_torchrun")
    train("after_torchrun", 1, "--resume auto")
    train("own_ddp", 2, settings=OWN_OBJECTIVE)
    train("own_stopped", 2, "--parallel fsdp", signal_one, OWN_OBJECTIVE)
    shutil.copytree(folder / "own_stopped", folder / "own_fsdp")
    train("own_fsdp", 2, "--parallel fsdp --resume auto", settings=OWN_OBJECTIVE)
    if importlib.util.find_spec("timm"):
        fine_tune(folder, report)
    report["inside"] = launch(folder, "inside", 2, lambda: inside(folder))
    (folder / "report.json").write_text(json.dumps(report))


def train_each(folder: Path, train: Callable, objective: str) -> None:
    """Train an objective in one process, in two, and sharded; i-MAE in two and then in three.

    MAE is i-MAE of single images, and not sharded. R-MAE's images grow.
    """
    settings = f"{GROWING if objective == 'rmae' else COMMON} {flags_of(objective)}"
    train(f"{objective}_1", 1, settings=settings)
    train(f"{objective}_2", 2, settings=settings)
    if objective == "imae":
        train("imae_stopped", 2, "--parallel fsdp", signal_one, settings)
        shutil.copytree(folder / "imae_stopped", folder / "imae_3")
        train("imae_3", 3, "--resume auto --parallel fsdp", settings=settings)
    elif objective != "mae":
        train(f"{objective}_fsdp", 2, "--parallel fsdp", settings=settings)


def fine_tune(folder: Path, report: dict) -> None:
    """Fine-tune in one process and in two, on the same global batches."""
    toy_images.save_mae(folder / "mae.pth")
    for part, count in (("train", 8), ("val", 2)):
        toy_images.save_colours(folder / "data" / part, count)
    for size in (1, 2):
        name = f"tuned_{size}"
        command = f"{FINE_TUNING} --checkpoint {folder / 'mae.pth'} --data_path {folder / 'data'} "
        command += f"--output_dir {folder / name} --batch_size {12 // size}"
        report[name] = launch(folder, name, size, lambda c=command: cli.evaluate(c.split()))


def run(command: list[str], at_step: Callable[[Trainer], None]) -> int:
    """Run fastimae-train and call `at_step` before each of its steps."""
    real = Trainer._train_step

    def step(self: Trainer, batches: object) -> None:
        at_step(self)
        real(self, batches)

    Trainer._train_step = step
    return cli.train(command)


def signal_one(trainer: Trainer) -> None:
    """Ask one process of two to stop, in the first of the second epoch's three steps."""
    if trainer.world.rank == 1 and trainer.epoch == 1 and not trainer.asked_to_stop:
        os.kill(os.getpid(), signal.SIGUSR1)


def kill_main(trainer: Trainer) -> None:
    """Kill the main process, which hosts the store."""
    if trainer.world.is_main and trainer.epoch == 1:
        os.kill(os.getpid(), signal.SIGKILL)


def kill_second(trainer: Trainer) -> None:
    """Kill the process that is not the main one."""
    if trainer.world.rank == 1 and trainer.epoch == 1:
        os.kill(os.getpid(), signal.SIGKILL)


def by_torchrun(output: Path) -> int:
    """Let torchrun's agent start two processes, forked from this one, of which one is killed."""
    command = f"{SETTINGS} --batch_size {GLOBAL_BATCH // 2} --output_dir {output}".split()
    one_node = LaunchConfig(
        1, 1, 2, rdzv_backend="c10d", rdzv_endpoint="localhost:0", max_restarts=0,
        start_method="fork",
    )  # fmt: skip
    try:
        elastic_launch(one_node, lambda: sys.exit(run(command, kill_second)))()
    except ChildFailedError:
        print(f"left over: {psutil.Process().children(recursive=True)}")
        return 1
    return 0


def inside(folder: Path) -> int:
    """Record the collectives of steps, the clipped norms, and a failing save."""
    world = join_world("cpu", LaunchSettings(dist_timeout=60))
    seen = {}
    for kind in ("ddp", "fsdp"):
        for precision in ("fp32", "bf16"):
            seen[f"{kind} {precision}"] = take_steps(world, kind, precision)
    seen["save"] = fail_to_save(world, folder)
    (folder / f"inside-{world.rank}.json").write_text(json.dumps(seen))
    world.any(False)
    world.close()
    return 0


def take_steps(world: World, kind: str, precision: str) -> dict:
    """Take a step of one batch and one of three; return reductions, clipped norms and losses."""
    torch.manual_seed(0)
    objective = IMAE(tiny(heads=2), tiny(heads=1).to(DTYPES[precision]), mask_ratio=0.5)
    replica = parallelise(objective, world, kind, precision)
    optimizer = build_optimizer(objective, 1e-3, 0.05, one_pass=False)  # clips what `grad` holds
    seen = {"norms": [], "reductions": [], "losses": []}
    optimizer.register_step_pre_hook(
        lambda *_: seen["norms"].append(norm_of_gradients(world, objective))
    )
    for accum_iter in (1, 3):
        step = Step(
            objective, optimizer, precision=precision, device=world.device,
            accum_iter=accum_iter, clip_grad=CLIP, replica=replica,
        )  # fmt: skip
        with create_loader(
            synthetic=True, synthetic_samples=24, input_size=(16, 16), batch_size=4, mix_group=2,
            accum_iter=accum_iter, rank=world.rank, world_size=world.size, num_workers=0,
        ) as loader:  # fmt: skip
            batches = [batch for batch, _ in zip(loader, range(accum_iter), strict=False)]
        with Reductions() as reductions:
            parts = step(batches, 1e-3)
        seen["reductions"].append(reductions.count)
        seen["losses"] += world.mean(torch.stack([p["loss"] for p in parts])).tolist()
    return seen


def norm_of_gradients(world: World, objective: nn.Module) -> float:
    """Return the norm of the full gradient, from each process's rows if it is sharded."""
    grads = [p.grad for p in objective.parameters() if p.grad is not None]
    rows = hasattr(grads[0], "to_local")
    squares = sum((g.to_local() if rows else g).double().square().sum() for g in grads)
    return float((world.mean(squares) * (world.size if rows else 1)).sqrt())


def fail_to_save(world: World, folder: Path) -> str:
    """Return each process's error when the second one cannot write its part of a checkpoint."""
    torch.manual_seed(0)
    objective = IMAE(tiny(heads=2), mask_ratio=0.5)
    parallelise(objective, world, "fsdp", "fp32")
    path, content = folder / "saved" / "checkpoint-last.pth", objective.student.state_dict()
    path.parent.mkdir(exist_ok=True)
    sharded.save_sharded(path, {"model": content, "epoch": 1}, world)

    def full_disk(*_: object) -> None:
        raise CheckpointError("No space left")

    if world.rank == 1:
        sharded.write = full_disk
    try:
        sharded.save_sharded(path, {"model": content, "epoch": 2}, world)
    except CheckpointError as error:
        return str(error)
    return "saved"


if __name__ == "__main__":
    main(Path(sys.argv[1]))
