"""Ways to train that are compared, and the ladder from the plain pipeline to ours."""

from __future__ import annotations

import copy
import dataclasses

import torch

from benchmarks.train.cases import Case, make_batch, make_objective
from benchmarks.train.ours import OurModels, Ours, OurVariant
from benchmarks.train.plain import Plain, PlainModels, PlainVariant, host_tensors
from fastimae.engine.precision import resolve_precision

Way = Plain | Ours
BF16 = torch.bfloat16


def contestants(device: torch.device, *, compiled: bool = True) -> dict[str, Way]:
    """The variants of the main table.

    reference: the plain pipeline. reference_bf16: the same with bf16 autocast. reference_tuned:
    what a careful user makes of it, and bf16 only where that pays; `compiled` is for it. fastimae:
    what fastimae-train does.
    """
    tuned = Plain(dtype=_tuned(device), waits=False, sdpa=True, fused=True, compiled=compiled)
    return {
        "reference": Plain(),
        "reference_bf16": Plain(dtype=BF16),
        "reference_tuned": tuned,
        "fastimae": Ours(),
    }


def ladder(case: Case, device: torch.device) -> dict[str, Way]:
    """From the plain pipeline to ours, one change at a time; each step keeps those before it."""
    gpu, bf16 = device.type == "cuda", resolve_precision("auto", device) == "bf16"
    plain = Plain()
    rungs: dict[str, Way] = {"reference": plain}
    for name, change, applies in (
        ("no wait for the loss", {"waits": False}, gpu),
        ("bf16 instead of fp16, no scaler", {"dtype": BF16}, gpu and bf16),
        ("SDPA", {"sdpa": True}, True),
        ("fused AdamW", {"fused": True}, True),
    ):
        if applies:
            rungs[name] = plain = dataclasses.replace(plain, **change)
    ours = Ours(
        precision="fp32", autocast=gpu and bf16, masked_only=False,
        batched=False, products=gpu, triton=False, compiled=False, cuda_graph=False,
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
        ("CUDA graph", {"cuda_graph": True}, gpu),
    ):
        if applies:
            rungs[name] = ours = dataclasses.replace(ours, **change)
    return rungs


def precision_of(way: Way, device: torch.device) -> str:
    """Name of the number format that matrix products run in."""
    if isinstance(way, Plain):
        return way.precision(device)
    return "bf16" if way.autocast else resolve_precision(way.precision, device)


class Workshop:
    """Builds variants of a case, all with the same weights.

    share: variants that change no module have one model among them, so that many fit in memory.
    """

    def __init__(self, case: Case, device: torch.device, *, share: bool) -> None:
        self.case, self.device, self.share = case, device, share
        self._objective = make_objective(case)
        self.expected_loss = self._expected_loss()
        """The plain pipeline's, in fp32, on the made-up batch with our mask and mixtures."""
        self._shared: dict[tuple[type, str], PlainModels | OurModels] = {}

    def build(self, way: Way) -> PlainVariant | OurVariant:
        """The variant, ready to run."""
        return way.build(self.case, self._models(way), self.device)

    def _expected_loss(self) -> float:
        models = self._fresh(Plain).eval()
        models.noise = self.noise()
        host = host_tensors(self.case, self.device)
        with torch.no_grad():
            return models(*(tensor.to(self.device) for tensor in host)).item()

    def noise(self) -> torch.Tensor:
        """Our mask of the made-up batch as what the plain pipeline orders patches by."""
        batch = make_batch(self.case, self.case.batch_size(self.device))
        drawn = self._objective.draw_mask(batch.key if self.case.objective == "mae" else batch)
        return drawn.mask.to(self.device)

    def _models(self, way: Way) -> PlainModels | OurModels:
        changes = way.compiled or (isinstance(way, Ours) and way.cuda_graph)
        if changes or not self.share:
            return self._fresh(type(way))
        # A teacher is cast to bf16 for good.
        kind = type(way), way.precision if isinstance(way, Ours) else ""
        if kind not in self._shared:
            self._shared[kind] = self._fresh(type(way))
        return self._shared[kind]

    def _fresh(self, kind: type) -> PlainModels | OurModels:
        if kind is Plain:
            return PlainModels(self.case, self._objective).to(self.device)
        return OurModels(copy.deepcopy(self._objective).to(self.device))


def _tuned(device: torch.device) -> torch.dtype | None:
    return BF16 if resolve_precision("auto", device) == "bf16" else None
