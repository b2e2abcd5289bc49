"""Variants of training that are compared, and the ladder from the plain pipeline to ours."""

from __future__ import annotations

import copy
import dataclasses
import functools
from importlib.util import find_spec

import torch

from benchmarks.rungs import (
    ALWAYS,
    ASKED,
    FP8,
    NORMS,
    PAIRS,
    PRODUCTS,
    START,
    TABLE,
    TILES,
    UPDATE,
)
from benchmarks.train.cases import TrainCase, make_batch, make_objective
from benchmarks.train.fastimae_step import BuiltFastImaeStep, FastImaeModels, FastImaeStep
from benchmarks.train.reference_step import (
    BuiltReferenceStep,
    ReferenceModels,
    ReferenceStep,
    host_tensors,
)
from benchmarks.train.switches import switched
from fastimae.engine.precision import resolve_precision

Variant = ReferenceStep | FastImaeStep
BF16 = torch.bfloat16


def main_variants(device: torch.device, *, compiled: bool = True) -> dict[str, Variant]:
    """Return the variants of the main table.

    reference: the plain pipeline. reference_bf16: the same with bf16 autocast. reference_tuned:
    what a careful user makes of it, with bf16 only where that pays; `compiled` is for it. fastimae:
    what fastimae-train does.
    """
    tuned = ReferenceStep(
        dtype=_tuned(device), waits=False, sdpa=True, fused=True, compiled=compiled
    )
    return {
        "reference": ReferenceStep(),
        "reference_bf16": ReferenceStep(dtype=BF16),
        "reference_tuned": tuned,
        "fastimae": FastImaeStep(),
    }


def ladder(case: TrainCase, device: torch.device) -> dict[str, Variant]:
    """Return the rungs from the plain pipeline to ours; each adds a change to those before it."""
    gpu, bf16 = device.type == "cuda", resolve_precision("auto", device) == "bf16"
    plain = ReferenceStep()
    rungs: dict[str, Variant] = {"reference": plain}
    for name, change, applies in (
        ("no wait for the loss", {"waits": False}, gpu),
        ("bf16 instead of fp16, no scaler", {"dtype": BF16}, gpu and bf16),
        ("SDPA", {"sdpa": True}, True),
        ("fused AdamW", {"fused": True}, True),
    ):
        if applies:
            rungs[name] = plain = dataclasses.replace(plain, **change)
    ours = FastImaeStep(
        precision="fp32", autocast=gpu and bf16, masked_only=False,
        batched=False, products=gpu, triton=False, compiled=False, cuda_graph=False,
        one_pass=False, norms=not gpu, epilogues=not gpu, tiles=not gpu, shared_tokens=False,
    )  # fmt: skip
    rungs["our model: bytes in, visible patches only"] = ours
    for name, change, applies in (
        ("last decoder block: masked rows only", {"masked_only": True}, True),
        ("both images in one batch", {"batched": True}, case.objective == "imae"),
        ("bf16 autocast", {"autocast": True}, bf16 and not gpu),
        ("Triton kernels", {"triton": True}, gpu),
        ("bf16 weights and residual stream", {"precision": "auto", "autocast": False}, bf16),
        ("attention by matrix products", {"products": True}, bf16 and not gpu),
        ("compiled blocks", {"compiled": True}, gpu),
        (START, {"cuda_graph": True}, gpu),
        *((name, SWITCHES[name], gpu or name in ON_CPU) for name in ALWAYS),
        *((name, SWITCHES[name], name in rungs_behind_flags(case, device)) for name in ASKED),
    ):
        if applies:
            rungs[name] = ours = dataclasses.replace(ours, **change)
    return rungs


def newest(case: TrainCase, device: torch.device) -> dict[str, Variant]:
    """Return the rungs of `benchmarks.rungs`, and the one before them: START, on a GPU."""
    rungs = ladder(case, device)
    names = list(rungs)
    return {name: rungs[name] for name in names[names.index(ALWAYS[0]) - 1 :]}


SWITCHES = {
    UPDATE: {"one_pass": True},
    NORMS: {"norms": True},
    PRODUCTS: {"epilogues": True},
    TILES: {"tiles": True},
    TABLE: {"shared_tokens": True},
    PAIRS: {"pairs": True},
    FP8: {"fp8": True},
}
"""The change of each rung of `benchmarks.rungs`."""
ON_CPU = (UPDATE, TABLE)
"""Rungs that change something on a CPU, except those behind a flag."""


def rungs_behind_flags(case: TrainCase, device: torch.device) -> tuple[str, ...]:
    """Name the rungs of a case on a device that fastimae-train runs only behind a flag."""
    if case.objective != "imae":
        return ()
    fp8 = device.type == "cuda" and torch.cuda.get_device_capability(device) >= (8, 9)
    return (PAIRS, FP8) if fp8 and find_spec("torchao") else (PAIRS,)


def precision_of(variant: Variant, device: torch.device) -> str:
    """Name the number format of matrix products."""
    if isinstance(variant, ReferenceStep):
        return variant.precision(device)
    return "bf16" if variant.autocast else resolve_precision(variant.precision, device)


class VariantBuilder:
    """Builder of variants of a case, all with the same weights.

    share: variants that change no module share one model, so that many fit in memory.
    """

    def __init__(self, case: TrainCase, device: torch.device, *, share: bool) -> None:
        self.case, self.device, self.share = case, device, share
        self._objective = make_objective(case).to(device)  # so copies are made on the device
        self._of_plain = functools.cache(self._expected_loss)
        self._shared: dict[tuple[type, str], ReferenceModels | FastImaeModels] = {}

    def build(self, variant: Variant) -> BuiltReferenceStep | BuiltFastImaeStep:
        """Build the step of a variant, ready to run."""
        return variant.build(self.case, self._models(variant), self.device)

    def expected_loss(self, variant: Variant) -> float:
        """Compute the plain pipeline's loss in fp32, on the variant's batch, mask and mixtures."""
        return self._of_plain(variant.on(self.case))

    def _expected_loss(self, case: TrainCase) -> float:
        if not case.has_plain:
            return self._own_loss(case)
        models = self._fresh(ReferenceStep).eval()
        models.noise = self.noise(case)
        host = host_tensors(case, self.device)
        with torch.no_grad():
            return models(*(tensor.to(self.device) for tensor in host)).item()

    def _own_loss(self, case: TrainCase) -> float:
        """Compute our loss in fp32 with ops in torch, for what the plain pipeline lacks."""
        batch = make_batch(case, case.batch_size(self.device)).to(self.device)
        with torch.no_grad(), switched(self._objective, FastImaeStep(triton=False)):
            return self._objective(batch)["loss"].item()

    def noise(self, case: TrainCase) -> torch.Tensor:
        """Return our mask of the made-up batch as the noise that the plain pipeline sorts."""
        batch = make_batch(case, case.batch_size(self.device))
        with switched(self._objective, FastImaeStep(pairs=case.reciprocal)):
            drawn = self._objective.draw_mask(batch.key if case.objective == "mae" else batch)
        return drawn.mask.to(self.device)

    def _models(self, variant: Variant) -> ReferenceModels | FastImaeModels:
        changes = variant.compiled or (isinstance(variant, FastImaeStep) and variant.cuda_graph)
        if changes or not self.share:
            return self._fresh(type(variant))
        # A teacher stays cast to bf16.
        kind = type(variant), variant.precision if isinstance(variant, FastImaeStep) else ""
        if kind not in self._shared:
            self._shared[kind] = self._fresh(type(variant))
        return self._shared[kind]

    def _fresh(self, kind: type) -> ReferenceModels | FastImaeModels:
        if kind is ReferenceStep:
            return ReferenceModels(self.case, self._objective)
        return FastImaeModels(copy.deepcopy(self._objective))


def _tuned(device: torch.device) -> torch.dtype | None:
    return BF16 if resolve_precision("auto", device) == "bf16" else None
