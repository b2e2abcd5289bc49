"""What this machine can do, and what holds it back: `fastimae-bench F.beton`."""

from fastimae.bench.command import bench

__all__ = ["bench"]
