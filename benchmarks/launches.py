"""How many kernels does a step launch? `python -m benchmarks.launches` counts them, on a CPU.

Steps of tiny models are bound by launches, on a GPU a few microseconds each. Counted, not measured:
an operation of torch that writes memory is one launch, one over lists (`_foreach_`, `stack`) as
many as the lists need, and each launch of our Triton kernels is one. Views and allocations are
none. Values do not matter, so that only kernels that draw are run, in Triton's interpreter.

Not known here: what torch.compile fuses in the blocks (so a GPU launches less), whether a matrix
product or a sum takes a second kernel, and where a GPU's table prefers SDPA or torch's MLP to our
kernels, which are counted here.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import math
import os
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from PIL import Image
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from benchmarks.harness import BenchmarkReport, table, usual_parser
from benchmarks.train.cases import TrainCase, make_batch, make_objective
from fastimae.engine.distributed import ALONE
from fastimae.engine.metrics import LossMeter
from fastimae.engine.optim import build_optimizer
from fastimae.engine.resident_step import ResidentStep
from fastimae.engine.step import GraphedStep
from fastimae.kernels import _launch, set_default_impl
from fastimae.loaders import Batch, create_loader
from fastimae.streams import closed_early_is_fine

PROG = "python -m benchmarks.launches"
PARTS = ("batch", "forward", "backward", "update", "bookkeeping")
IGNORED = "ignored"
CASE = TrainCase(
    name="mae_vit_tiny_patch4", objective="mae", model="mae_vit_tiny_patch4", img_size=32,
    batch_cuda=2, batch_cpu=2,
)  # fmt: skip
SMOKE = dataclasses.replace(CASE, name="mae_vit_nano_patch8", model="mae_vit_nano_patch8")
TENSORS_PER_LAUNCH = {1: 110, 2: 64, 3: 48, 4: 36, 5: 30}
"""Of torch's kernels over lists of tensors, by the number of lists (MultiTensorApply.cuh)."""
TENSORS_PER_CAT = 128
"""Tensors that one kernel of `cat` and `stack` joins (Shape.cu)."""


class Launches(TorchDispatchMode):
    """Counts the launches of the block that it surrounds, by part of the step and by name."""

    def __init__(self) -> None:
        super().__init__()
        self.counts: Counter[tuple[str, str]] = Counter()
        self.part = "bookkeeping"

    def __torch_dispatch__(self, op: Any, types: object, args: Any = (), kwargs: Any = None) -> Any:
        result = op(*args, **(kwargs or {}))
        if op.namespace != "fastimae":  # whose launches and operations are seen by themselves
            self.add(op.name(), launches_of(op, args, result))
        return result

    def add(self, name: str, count: int = 1) -> None:
        """Count launches of the current part."""
        if count:
            self.counts[self.part, name] += count

    def of(self, part: str) -> int:
        """Return the launches of a part."""
        return sum(count for (where, _), count in self.counts.items() if where == part)

    @contextlib.contextmanager
    def within(self, part: str) -> Iterator[None]:
        """Let the launches of the block belong to a part."""
        before, self.part = self.part, part
        try:
            yield
        finally:
            self.part = before

    def method(self, owner: object, name: str, part: str) -> Any:
        """Return a context in which the launches of a method belong to a part."""
        inner = getattr(owner, name)

        @functools.wraps(inner)
        def outer(*args: object, **settings: object) -> object:
            with self.within(part):
                return inner(*args, **settings)

        return mock.patch.object(owner, name, outer)

    def seen(self, function: Callable) -> Callable:
        """Return a custom op's function, whose operations are counted, too."""

        def outer(*args: object, **settings: object) -> object:
            with self:
                return function(*args, **settings)

        return outer


def launches_of(op: Any, args: Any, result: object) -> int:
    """Return how many kernels an operation of torch launches."""
    name = op.name().removeprefix("aten::")
    if op.is_view or name.startswith(("empty", "new_empty", "_unsafe_view", "set_", "resize_")):
        return 0
    if name.startswith(("_foreach_", "_fused_")):
        lists = [x for x in args if isinstance(x, (list, tuple)) and x and torch.is_tensor(x[0])]
        depth = len(lists) + (not op._schema.is_mutable)
        return math.ceil(len(lists[0]) / TENSORS_PER_LAUNCH[min(depth, 5)])
    if name.startswith(("cat", "stack")):
        return math.ceil(len(args[0]) / TENSORS_PER_CAT)
    return int(any(torch.is_tensor(x) for x in tree_leaves(result)))


@contextlib.contextmanager
def counting(step: GraphedStep) -> Iterator[Launches]:
    """Make the counter of a step, which also sees our kernels during the block."""
    counter, real = Launches(), _launch.launch

    def launch(kernel: Any, grid: tuple[int, ...], **arguments: Any) -> None:
        counter.add(kernel.fn.__name__)
        if "key_ptr" in arguments:  # it draws what others gather by
            with counter.within(IGNORED):  # the interpreter's own operations
                real(kernel, grid, **arguments)

    kernels = [each for name, each in sys.modules.items() if name.startswith("fastimae.kernels.")]
    with contextlib.ExitStack() as patches:
        for module in kernels:
            if getattr(module, "launch", None) is real:
                patches.enter_context(mock.patch.object(module, "launch", launch))
        for owner, method, part in (
            (type(step.replica), "__call__", "forward"),
            (Tensor, "backward", "backward"),
            (step, "_apply_gradients", "update"),
        ):
            patches.enter_context(counter.method(owner, method, part))
        for op in torch._library.custom_ops.OPDEFS.values():
            if op._namespace == "fastimae":
                bodies = {device: counter.seen(body) for device, body in op._backend_fns.items()}
                patches.enter_context(mock.patch.dict(op._backend_fns, bodies))
        patches.enter_context(mock.patch.object(_launch, "_default", "triton"))
        yield counter


def make_step(case: TrainCase, kind: type[GraphedStep], accum_iter: int) -> GraphedStep:
    """Make a step as on a GPU, whose graphs are Python functions here."""
    objective = make_objective(case)
    optimizer = build_optimizer(objective, 1e-3, 0.05)
    rate = torch.tensor(1e-3)
    for group in optimizer.param_groups:
        group["lr"] = rate
    precision = {"precision": "bf16", "device": ALONE.device}
    step = kind(objective, optimizer, **precision, accum_iter=accum_iter)
    step.record = lambda work: work
    return step


def ordinary(case: TrainCase, accum_iter: int = 1) -> Launches:
    """Count a step whose batches are copied from the host, as a `Trainer` takes it."""
    step, meter = make_step(case, GraphedStep, accum_iter), LossMeter(ALONE, Path())
    batches = [make_batch(case, case.batch_cpu) for _ in range(accum_iter)]
    with counting(step) as counter:
        step.prepare(batches[0])
        counter.counts.clear()
        with counter:
            for micro, batch in enumerate(batches):
                with counter.within("batch"):  # its copies to the device
                    copied = dataclasses.replace(batch, **cloned(batch))
                parts = step.advance(copied, 1e-3, last=micro == accum_iter - 1)
                meter.add(parts, 0, 0, copied.index)
    return counter


def resident(case: TrainCase, accum_iter: int = 1) -> Launches:
    """Count a step whose batches the device makes, alone in its graph: in a graph of many, they
    share its bookkeeping."""
    step = make_step(case, ResidentStep, accum_iter)
    with tempfile.TemporaryDirectory() as folder, counting(step) as counter:
        for number in range(case.batch_cpu * accum_iter):
            image = Image.new("RGB", (case.img_size, case.img_size), (number, 0, 0))
            image.save(f"{folder}/{number}.png")
        loader = create_loader(
            data_path=folder, cache="device", batch_size=case.batch_cpu, accum_iter=accum_iter,
            input_size=(case.img_size,), num_workers=0, tell=False,
        )  # fmt: skip
        assert step.prepare_whole(loader.resident, 0, 1), "the objective draws"
        loader.resident.begin(0, 0)
        counter.counts.clear()
        with counter.method(step, "next_batch", "batch"), counter:
            step.take([1e-3])
    return counter


def cloned(batch: Batch) -> dict[str, Tensor]:
    """Copy the fields of a batch."""
    return {each.name: getattr(batch, each.name).clone() for each in dataclasses.fields(batch)}


@closed_early_is_fine()
def main(argv: list[str] | None = None) -> int:
    """Count both kinds of steps, and print a table."""
    parser = usual_parser(PROG, __doc__)
    parser.add_argument("--accum_iter", type=int, default=1, help="batches of a step")
    options = parser.parse_args(argv)
    if not _launch.interpreted():  # kernels must know it when they are imported
        words = [sys.executable, "-m", "benchmarks.launches", *(argv or sys.argv[1:])]
        environment = os.environ | {"TRITON_INTERPRET": "1"}
        return subprocess.run(words, env=environment, check=False).returncode
    case = SMOKE if options.smoke else CASE
    set_default_impl("auto", attention="triton", mlp="triton")
    counters = {each.__name__: each(case, options.accum_iter) for each in (ordinary, resident)}
    report = BenchmarkReport(ALONE.device, PROG, argv, options.out, results=rows_of(counters))
    report.finish()
    print(table(report["results"]))
    return 0


def rows_of(counters: dict[str, Launches]) -> list[dict[str, object]]:
    """Return the table's rows: a step's launches by part, and their sum."""
    rows = []
    for name, counter in counters.items():
        parts = {part: counter.of(part) for part in PARTS}
        rows.append({"step": name, **parts, "all": sum(parts.values())})
    return rows


if __name__ == "__main__":
    sys.exit(main())
