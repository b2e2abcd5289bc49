"""Memory does not grow over a long run."""

import gc
import math
import platform
import subprocess
import sys

import psutil
import pytest
import torch

from fastimae.engine.distributed import World
from fastimae.engine.optim import build_optimizer
from fastimae.engine.plan import Plan
from fastimae.engine.step import Step
from fastimae.engine.trainer import Trainer
from fastimae.loaders import DevicePrefetch, create_loader
from fastimae.models import MaskedAutoencoder
from fastimae.objectives import MAE

WARM_UP, STEPS, BATCH = 100, 400, 4
SIZES = {
    "img_size": 16, "patch_size": 4, "embed_dim": 16, "depth": 1, "num_heads": 2,
    "decoder_embed_dim": 16, "decoder_depth": 1, "decoder_num_heads": 2,
}  # fmt: skip


def test_memory_is_flat_over_400_steps(tmp_path):
    """Over epochs, readings of the loss and checkpoints, the number of tensors and bytes stays the
    same."""
    objective = MAE(MaskedAutoencoder(**SIZES))
    steps = WARM_UP + STEPS
    optimizer = build_optimizer(objective, 1e-4, 0.05)
    process, tensors, megabytes = psutil.Process(), [], []

    def note(*_):
        note.step += 1
        if note.step in (WARM_UP, steps):
            gc.collect()
            tensors.append(sum(issubclass(type(thing), torch.Tensor) for thing in gc.get_objects()))
            megabytes.append(process.memory_info().rss / 1e6)

    note.step = 0
    optimizer.register_step_post_hook(note)
    with create_loader(
        synthetic=True, synthetic_samples=100 * BATCH, input_size=(16, 16), batch_size=BATCH,
        mix_group=0, num_workers=0,
    ) as loader:  # fmt: skip
        world = World(0, 1, torch.device("cpu"))
        plan = Plan(
            lr=1e-4, warmup_epochs=1, epochs=math.ceil(steps / 100), log_steps=20, save_freq=10**6
        )
        step = Step(objective, optimizer, precision="fp32", device=world.device, clip_grad=1.0)
        trainer = Trainer(step, DevicePrefetch(loader, world.device), plan, world, tmp_path)
        assert trainer.run()
    assert note.step == steps
    assert tensors[1] <= tensors[0]
    assert megabytes[1] - megabytes[0] < 8


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="of glibc")
def test_freed_memory_is_kept_for_the_next_step():
    """Pages are requested once, not in each round. In a separate process, as the setting is
    permanent."""
    code = """
import resource, torch
from fastimae.engine.memory import keep_freed_memory
def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    kept = [torch.ones(2_000_000) for _ in range(20)]
    del kept
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
keep_freed_memory()
faults(), faults()
print(faults())
"""
    command = [sys.executable, "-c", code]
    ran = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60)
    assert int(ran.stdout) < 2000  # of 40,000 pages in all
