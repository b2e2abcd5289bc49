"""The mixing ratio of i-MAE, drawn from keys so that a run can be repeated anywhere."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import Literal

import torch
from torch import Tensor, nn

from fastimae.kernels import mixing_ratio
from fastimae.kernels.mixing_ratio import LEVELS
from fastimae.settings import Idle, InnerShare, PositiveFloat, Settings


@dataclasses.dataclass(kw_only=True)
class MixSettings(Settings):
    """How much of each of its two images a mixture has."""

    mix_beta: PositiveFloat = 1.0
    """The mixing ratio lambda is drawn from Beta(b, b)."""
    mix_lambda: InnerShare | None = None
    """A fixed lambda; the subordinate image has weight min(lambda, 1 - lambda)."""
    mix_per: Literal["batch", "sample"] = "batch"
    """One lambda for a whole step, or one for each mixture."""

    def idle(self) -> Iterator[Idle]:
        yield Idle(self.mix_lambda is not None, ("mix_beta", "mix_per"), "with --mix_lambda")
        yield from super().idle()


class MixRatio(nn.Module):
    """Weight s = min(lambda, 1 - lambda) of the subordinate image (i-MAE, section 3.1).

    Its arguments are `MixSettings`.
    """

    def __init__(
        self,
        *,
        mix_beta: float = MixSettings.mix_beta,
        mix_lambda: float | None = MixSettings.mix_lambda,
        mix_per: Literal["batch", "sample"] = MixSettings.mix_per,
    ) -> None:
        from scipy.special import betaincinv  # half a second that no help text needs

        super().__init__()
        MixSettings(mix_beta=mix_beta, mix_lambda=mix_lambda, mix_per=mix_per).check()
        self.mix_per, self.fixed = mix_per, None
        if mix_lambda is not None:
            drawn = torch.tensor(mix_lambda)
            self.fixed = torch.minimum(drawn, 1 - drawn).item()
        levels = torch.linspace(0, 1, LEVELS + 1, dtype=torch.float64)
        quantiles = torch.from_numpy(betaincinv(mix_beta, mix_beta, levels.numpy()))
        self.register_buffer("quantiles", quantiles.float(), persistent=False)

    def forward(self, key: Tensor, step_key: Tensor) -> Tensor:
        """key: int64 [B]. step_key: int64 [1]. Returns s, fp32 [B], in [0, 0.5]."""
        if self.fixed is not None:
            return torch.full(key.shape, self.fixed, device=key.device)
        key = key if self.mix_per == "sample" else step_key.expand_as(key)
        return mixing_ratio(key, self.quantiles)
