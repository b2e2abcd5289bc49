"""Memory does not grow over a long run."""

import gc
import math
import multiprocessing
import platform
import resource

import psutil
import pytest
import torch

from fastimae.engine.distributed import World
from fastimae.engine.memory import keep_freed_memory
from fastimae.engine.optim import build_optimizer
from fastimae.engine.plan import Plan
from fastimae.engine.step import Step
from fastimae.engine.trainer import Trainer
from fastimae.loaders import DevicePrefetch, create_loader
from fastimae.models import MaskedAutoencoder
from fastimae.objectives import MAE

WARM_UP, STEPS, BATCH = 50, 200, 4
SIZES = {
    "img_size": 16, "patch_size": 4, "embed_dim": 16, "depth": 1, "num_heads": 2,
    "decoder_embed_dim": 16, "decoder_depth": 1, "decoder_num_heads": 2,
}  # fmt: skip


def test_memory_is_flat_over_200_steps(tmp_path):
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
        synthetic=True, synthetic_samples=WARM_UP * BATCH, input_size=(16, 16), batch_size=BATCH,
        mix_group=0, num_workers=0,
    ) as loader:  # fmt: skip
        world = World(0, 1, torch.device("cpu"))
        epochs = math.ceil(steps / WARM_UP)
        plan = Plan(lr=1e-4, warmup_epochs=1, epochs=epochs, log_steps=20, save_freq=10**6)
        step = Step(objective, optimizer, precision="fp32", device=world.device, clip_grad=1.0)
        trainer = Trainer(step, DevicePrefetch(loader, world.device), plan, world, tmp_path)
        assert trainer.run()
    assert note.step == steps
    assert tensors[1] <= tensors[0]
    assert megabytes[1] - megabytes[0] < 4


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="of glibc")
def test_freed_memory_is_kept_for_the_next_step():
    """Pages are requested once, not in each round. In a forked process, as the setting is
    permanent."""
    here, there = multiprocessing.get_context("fork").Pipe()
    process = multiprocessing.get_context("fork").Process(target=send_faults, args=(there,))
    process.start()
    assert here.poll(60)
    assert here.recv() < 2000  # of 40,000 pages in all
    process.join()


def send_faults(connection):
    """Send the faults of the third round, in a process that keeps its memory."""
    keep_freed_memory()
    torch.set_num_threads(1)  # others do not live on in a fork
    connection.send([faults() for _ in range(3)][-1])


def faults():
    """Count the page faults of filling memory and freeing it."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    kept = [torch.ones(2_000_000) for _ in range(20)]
    del kept
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
