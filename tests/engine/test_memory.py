"""A long run needs no more memory at its end than at its beginning."""

import gc
import math

import psutil
import torch

from fastimae.engine.distributed import World
from fastimae.engine.optim import build_optimizer
from fastimae.engine.plan import Plan
from fastimae.engine.step import Step
from fastimae.engine.trainer import Trainer
from fastimae.loaders import DevicePrefetch, create_loader
from fastimae.models import MaskedAutoencoder
from fastimae.objectives import MAE

WARM_UP, STEPS, BATCH = 100, 1000, 4
SIZES = {
    "img_size": 16, "patch_size": 4, "embed_dim": 16, "depth": 1, "num_heads": 2,
    "decoder_embed_dim": 16, "decoder_depth": 1, "decoder_num_heads": 2,
}  # fmt: skip


def test_memory_is_flat_over_1000_steps(tmp_path):
    """Through epochs, readings of the loss and checkpoints: as many tensors live, as many bytes."""
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
