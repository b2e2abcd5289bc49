"""The mixing ratio of i-MAE, drawn from keys so that a run can be repeated anywhere."""

from __future__ import annotations

from typing import Literal

import torch
from scipy.special import betaincinv
from torch import Tensor, nn

from fastimae.kernels import mixing_ratio
from fastimae.kernels.mixing_ratio import LEVELS
from fastimae.wording import SettingError


class MixRatio(nn.Module):
    """Weight s = min(lambda, 1 - lambda) of the subordinate image (i-MAE, section 3.1).

    mix_beta: lambda is drawn from Beta(mix_beta, mix_beta). mix_lambda: a fixed lambda instead.
    mix_per: one draw per optimizer step ("batch") or per sample ("sample").
    """

    def __init__(
        self,
        *,
        mix_beta: float = 1.0,
        mix_lambda: float | None = None,
        mix_per: Literal["batch", "sample"] = "batch",
    ) -> None:
        super().__init__()
        if mix_lambda is not None and not 0 < mix_lambda < 1:
            raise SettingError(f"--mix_lambda must lie between 0 and 1, not {mix_lambda}")
        if mix_beta <= 0:
            raise SettingError(f"--mix_beta must be positive, not {mix_beta}")
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
