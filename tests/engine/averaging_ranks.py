"""Two processes that average gradients by `Buckets`, for test_averaging.py.

    averaging_ranks.py FOLDER

Writes each process's observations to FOLDER/seen-RANK.json, exit statuses to FOLDER/report.json.
Then forks the processes of contrast_ranks.py, so that both import torch once.
"""

import contextlib
import copy
import functools
import hashlib
import itertools
import json
import random
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from contrast_ranks import contrast
from forked import Reductions, launch, tiny
from tape import record_on_tape, taped
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from fastimae.engine import bucket_replica
from fastimae.engine.bucket_replica import BucketReplica
from fastimae.engine.buckets import Buckets
from fastimae.engine.distributed import World, alone, join_world
from fastimae.engine.launcher import LaunchSettings
from fastimae.engine.optim import build_optimizer
from fastimae.engine.parallel import parallelise
from fastimae.engine.precision import DTYPES
from fastimae.engine.replica import DDPReplica
from fastimae.engine.step import GraphedStep, Step
from fastimae.loaders import create_loader
from fastimae.objectives import IMAE

STEPS, FEW, BATCH, MIX_GROUP = 8, 3, 4, 2
VARIANTS, REPLAYS = 6, 3
# So small that a tiny model has several buckets.
bucket_replica.Buckets = functools.partial(Buckets, first_bytes=10_000, full_bytes=40_000)


def main(folder: Path) -> None:
    torch.set_num_threads(1)
    report = {"seen": launch(folder, "seen", 2, lambda: see(folder))} | contrast(folder)
    (folder / "report.json").write_text(json.dumps(report))


def see(folder: Path) -> int:
    world = join_world("cpu", LaunchSettings(dist_timeout=60))
    ours = functools.partial(in_buckets, world=world)
    seen = {
        "ours fp32": train(world, "fp32", ours),
        "torch fp32": train(world, "fp32", in_torch_ddp),
        "ours bf16": train(world, "bf16", ours),
        "accumulated": train(world, "bf16", ours, steps=FEW, accum_iter=3),
        "taped": train(world, "bf16", ours, kind=TapedStep),
        "taped, accumulated": train(world, "bf16", ours, kind=TapedStep, steps=FEW, accum_iter=3),
        "one fails": train(world, "bf16", ours, kind=FailingStep, steps=FEW),
        "alone": train(alone("cpu"), "bf16", None, batch=BATCH * world.size),
        "by itself": use_a_weight_by_itself(world),
        "order": [follow(world, seed) for seed in range(VARIANTS)],
    }
    (folder / f"seen-{world.rank}.json").write_text(json.dumps(seen))
    world.any(False)
    world.close()
    return 0


def in_buckets(objective: IMAE, world: World) -> BucketReplica:
    return parallelise(objective, world, "ddp", "bf16", in_buckets=True)


def in_torch_ddp(objective: IMAE) -> DDPReplica:
    return DDPReplica(objective, DistributedDataParallel(objective))


class TapedStep(GraphedStep):
    """A step that records on a tape instead of a CUDA graph; recording changes no state."""

    def __init__(self, *args: object, **settings: object) -> None:
        super().__init__(*args, **settings)
        self.record = self._record_on_tape

    def _record_on_tape(self, function: Callable[[], Tensor | None]) -> Callable:
        return record_on_tape(self, function)


class FailingStep(TapedStep):
    """A step that the second process cannot record."""

    def _record_on_tape(self, function: Callable[[], Tensor | None]) -> Callable:
        replay = super()._record_on_tape(function)  # communicates, unlike a real recording
        if self.replica.world.rank == 1:
            raise RuntimeError("out of memory")
        return replay


def train(
    world: World,
    precision: str,
    parallel: Callable | None,
    *,
    kind: type[Step] = Step,
    steps: int = STEPS,
    batch: int = BATCH,
    accum_iter: int = 1,
) -> dict:
    """Train some steps; return the losses, means over processes, a digest of the weights after each
    step, and why recording failed if it did."""
    torch.manual_seed(0)
    teacher = tiny(heads=1).to(DTYPES[precision])
    torch.manual_seed(world.rank)  # students must begin alike regardless
    objective = IMAE(tiny(heads=2), teacher, mask_ratio=0.5).to(world.device)
    optimizer = build_optimizer(
        objective, 1e-3, 0.05, for_graph=world.device.type == "cuda" and kind is GraphedStep
    )
    step = kind(
        objective, optimizer, precision=precision, device=world.device, accum_iter=accum_iter,
        clip_grad=0.5, replica=parallel and parallel(objective),
    )  # fmt: skip
    losses, digests = [], []
    for number, batches in enumerate(batches_of(world, steps, batch, accum_iter), 1):
        with Reductions() if number == steps else contextlib.nullcontext() as reductions:
            parts = step(batches, 1e-3)
        losses.append(world.mean(torch.stack([part["loss"] for part in parts])).mean().item())
        digests.append(digest(objective.student))
    weights = torch.cat([p.detach().flatten() for p in objective.student.parameters()])
    return {
        "losses": losses,
        "digests": digests,
        "norm": weights.double().norm().item(),
        "reductions": reductions.count,  # of the last step; counting makes each operation slower
        "failure": str(getattr(step, "failure", None)),
    }


class Penalised(IMAE):
    """An objective whose loss uses a weight directly, beside the module that has it."""

    def __init__(self) -> None:
        super().__init__(tiny(heads=2), mask_ratio=0.5)
        self.weights = [self.student.cls_token]

    def forward(self, batch: object) -> dict[str, Tensor]:
        parts = super().forward(batch)
        return parts | {"loss": parts["loss"] + self.weights[0].square().sum()}


def use_a_weight_by_itself(world: World) -> str:
    """Return the error of a step whose loss uses a weight directly."""
    objective = Penalised()
    step = Step(
        objective, build_optimizer(objective, 1e-3, 0.05), precision="bf16",
        device=world.device, replica=in_buckets(objective, world),
    )  # fmt: skip
    try:
        step(next(batches_of(world, 1, BATCH, 1)), 1e-3)
    except RuntimeError as error:
        return str(error)
    return "none"


def batches_of(world: World, steps: int, batch: int, accum_iter: int) -> Iterator[list]:
    with create_loader(
        synthetic=True, synthetic_samples=STEPS * accum_iter * batch * world.size,
        input_size=(16, 16), batch_size=batch, mix_group=MIX_GROUP, accum_iter=accum_iter,
        rank=world.rank, world_size=world.size, num_workers=0,
    ) as loader:  # fmt: skip
        images = iter(loader)
        for _ in range(steps):
            yield [copy.deepcopy(next(images)).to(world.device) for _ in range(accum_iter)]


def digest(module: nn.Module) -> str:
    numbers = torch.cat([p.detach().flatten() for p in module.parameters()]).cpu().numpy()
    return hashlib.sha256(numbers.tobytes()).hexdigest()


def follow(world: World, seed: int) -> dict:
    """Record a step of a random network and random buckets on a tape, and replay it. Return the
    order of events, and whether replays equal plain steps. The second process is slow now and then.
    """
    draw = random.Random(seed)  # the same in all processes
    widths = [draw.randrange(1, 40) for _ in range(draw.randrange(2, 7))]
    sizes = {"first_bytes": draw.randrange(1, 600), "full_bytes": draw.randrange(1, 2500)}
    accum_iter, unused = draw.randrange(1, 4), seed % 3 == 2
    torch.manual_seed(seed)
    plain = Net(widths, unused)
    net = copy.deepcopy(plain)
    torch.manual_seed(world.rank)
    inputs = torch.randn(1 + REPLAYS, accum_iter, 5, widths[0])
    unrecorded = Buckets([*plain.parameters()], **sizes)
    for given in inputs:
        take_step(plain, unrecorded, given.clone())  # clone: rounding depends on the alignment
    leaves, given = [*net.parameters()], inputs[0].clone()
    with taped() as tape:
        for number, leaf in enumerate(leaves):
            leaf.register_post_accumulate_grad_hook(dawdle(world, number, tape.note))
        buckets = Buckets(leaves, **sizes)
        take_step(net, buckets, given, tape.note)
    recorded, replayed = tape.events[:], []
    for later in inputs[1:]:
        tape.events.clear()
        given.copy_(later)
        tape.replay()
        replayed.append(tape.events[:])
    numbers = {leaf: number for number, leaf in enumerate(leaves)}
    return {
        "recorded": recorded,
        "replayed": replayed,
        "buckets": [[numbers[leaf] for leaf in bucket.leaves] for bucket in buckets.buckets],
        "accum_iter": accum_iter,
        "unused": unused,
        "equal": all(map(torch.equal, net.parameters(), plain.parameters())),
        "digest": digest(net),
    }


class Net(nn.Module):
    """Layers, and an unused parameter if wanted."""

    def __init__(self, widths: list[int], unused: bool) -> None:
        super().__init__()
        layers = [nn.Linear(a, b) for a, b in itertools.pairwise(widths)]
        if unused:
            layers[len(layers) // 2].register_parameter("unused", nn.Parameter(torch.ones(3)))
        self.layers = nn.Sequential(*layers)

    def forward(self, x: Tensor) -> Tensor:
        return self.layers(x).sin().square().mean()


def take_step(
    net: Net, buckets: Buckets, inputs: Tensor, note: Callable[[str], None] = lambda _: None
) -> None:
    """Average the gradients of all inputs, one pass each, then update along them."""
    for number, x in enumerate(inputs):
        with buckets.backward(add=number > 0, last=number == len(inputs) - 1):
            net(x).backward()
            note("backward")
    note("update")
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.sub_(0.1 * buckets.means[parameter])


def dawdle(world: World, number: int, note: Callable[[str], None]) -> Callable[[Tensor], None]:
    def hook(_: Tensor) -> None:
        if world.rank == 1 and number % 3 == 0:
            time.sleep(0.01)
        note(f"gradient {number}")

    return hook


if __name__ == "__main__":
    main(Path(sys.argv[1]))
