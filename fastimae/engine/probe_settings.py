"""The flags of probes while a model is trained."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from pathlib import Path

from fastimae.settings import Count, Expert, Free, Idle, Settings


@dataclasses.dataclass(kw_only=True)
class ProbeSettings(Settings):
    """When to probe the encoder, and on which images."""

    probe_freq: Expert[Free[Count]] = 0
    """Epochs between probes of the encoder: linear, kNN and RankMe (docs/training.md); 0: none."""
    val: Expert[Path | None] = None
    """The .beton file or folder of labelled images that probes are tested on; the folder's val/ if
    it has one."""

    def check(self) -> None:
        super().check()
        self.require(
            not self.probe_freq or self.val is not None,
            "--probe_freq needs images to test on: give them as --val FILE.beton or --val FOLDER",
        )

    def idle(self) -> Iterator[Idle]:
        yield from super().idle()
        yield Idle(not self.probe_freq, ("val",), "without --probe_freq")

    def is_due(self, epoch: int, epochs: int) -> bool:
        """Return whether to probe after this epoch of `epochs`, counted from 0: in those that
        --vis_freq and --save_freq would count, and in the last."""
        last = epoch + 1 == epochs
        return bool(self.probe_freq) and (last or epoch % self.probe_freq == 0)
