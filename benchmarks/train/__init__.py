"""Training steps, ours against the plain pipeline: `python -m benchmarks.train`."""

import os

# As fastimae.cli has it, for all variants: must be set before torch is imported.
os.environ.setdefault("GOMP_SPINCOUNT", "10000")
