"""C-MAE's loss and gradients in one, two and three processes, forked by averaging_ranks.py.

FOLDER/contrast-SIZE.pt has what rank 0 of SIZE processes got from its share of a batch of 12
images: parts and gradients, averaged over processes as training averages them.
"""

from pathlib import Path

import torch
import torch.distributed as dist
from forked import launch

from fastimae.loaders.base import Batch
from fastimae.models import create_model
from fastimae.objectives import CMAE
from fastimae.objectives.settings import CMAESettings

IMAGES = 12
CASES = {
    "infonce": {},
    "byol": {"contrast": "byol"},
    "dropped": {"encoder_mask_tokens": False, "second_view": "full", "tokens": "both"},
}


def contrast(folder: Path) -> dict:
    """Return the exit statuses, by run."""
    return {
        f"contrast-{size}": launch(folder, f"contrast-{size}", size, lambda n=size: work(folder, n))
        for size in (1, 2, 3)
    }


def mean(value: torch.Tensor) -> torch.Tensor:
    value = value.detach().clone()
    if dist.is_initialized():
        dist.all_reduce(value)
        value /= dist.get_world_size()
    return value


def work(folder: Path, size: int) -> int:
    rank = 0
    if size > 1:
        dist.init_process_group("gloo")
        rank = dist.get_rank()
    results = {}
    for name, case in CASES.items():
        torch.manual_seed(1)
        student = create_model("mae_vit_nano_patch8", img_size=32, depth=1, decoder=False)
        settings = CMAESettings(proj_hidden_dim=32, proj_dim=16, **case)
        objective = CMAE(student, settings)
        images = torch.randint(0, 256, (IMAGES, 32, 32, 3), dtype=torch.uint8)
        key, own = torch.randint(2**62, (IMAGES,)), torch.arange(IMAGES).chunk(size)[rank]
        batch = Batch(
            images=images[own], labels=own, index=own, key=key[own], partner=own, step_key=key[:1]
        )
        parts = objective(batch)
        parts["loss"].backward()
        trained = {n: p for n, p in objective.named_parameters() if p.grad is not None}
        results[name] = {n: mean(part) for n, part in parts.items()}
        results[name] |= {n: mean(p.grad) for n, p in trained.items()}
    if not rank:
        torch.save(results, folder / f"contrast-{size}.pt")
    return 0
