"""The mixing ratio of i-MAE, drawn from keys so that a run can be repeated on any machine.

B = batch.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn

from fastimae.kernels import mixing_ratio
from fastimae.kernels.mixing_ratio import LEVELS
from fastimae.objectives.settings import MixSettings


def beta_quantiles(parameter: float) -> Tensor:
    """Return the quantiles of Beta(b, b) at 0, 1/4096, ..., 1, float64 [4097]. parameter: b."""
    from scipy.special import betaincinv  # here, as the import takes half a second

    levels = torch.linspace(0, 1, LEVELS + 1, dtype=torch.float64)
    return torch.from_numpy(betaincinv(parameter, parameter, levels.numpy()))


class MixRatio(nn.Module):
    """Weight s = min(lambda, 1 - lambda) of the subordinate image (i-MAE, section 3.1).

    The arguments are those of `MixSettings`.
    """

    def __init__(
        self,
        *,
        mix_beta: float = MixSettings.mix_beta,
        mix_lambda: float | None = MixSettings.mix_lambda,
        mix_per: Literal["batch", "sample"] = MixSettings.mix_per,
    ) -> None:
        super().__init__()
        MixSettings(mix_beta=mix_beta, mix_lambda=mix_lambda, mix_per=mix_per).check()
        self.mix_per, self.fixed = mix_per, None
        if mix_lambda is not None:
            ratio = torch.tensor(mix_lambda)  # rounded to fp32, like a drawn one
            self.fixed = torch.minimum(ratio, 1 - ratio).item()
        self.register_buffer("quantiles", beta_quantiles(mix_beta).float(), persistent=False)

    def forward(self, key: Tensor, step_key: Tensor) -> Tensor:
        """Draw s, fp32 [B] in [0, 0.5]. key: int64 [B]. step_key: int64 [1]."""
        return self.of_samples(key if self.mix_per == "sample" else step_key.expand_as(key))

    def of_samples(self, key: Tensor) -> Tensor:
        """Draw s of each sample from its own key, even if a batch shares one. key: int64 [B]."""
        if self.fixed is not None:
            return torch.full(key.shape, self.fixed, device=key.device)
        return mixing_ratio(key, self.quantiles)
