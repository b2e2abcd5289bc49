"""Our training step against the plain pipeline: `python -m benchmarks.train`."""

import os

# For all variants, as in fastimae.cli; must be set before torch is imported.
os.environ.setdefault("GOMP_SPINCOUNT", "10000")
