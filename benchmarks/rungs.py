"""Names of the optimisations of our step beyond compiled blocks and CUDA graphs.

`benchmarks.train --ladder` measures them as its rungs, `benchmarks.step_model` predicts them.
"""

from __future__ import annotations

START = "CUDA graph"
UPDATE = "one pass over the parameters, one graph"
NORMS = "sums with norms, biases' gradients with both"
PRODUCTS = "GELU and its gradient in the products' epilogues"
TILES = "the decoder's own attention tiles"
TABLE = "mask tokens' first QKV once for all samples"
ALWAYS = (UPDATE, NORMS, PRODUCTS, TILES, TABLE)
"""What training does by default, in the order of the ladder."""
PAIRS = "one teacher pass for two mixtures"
FP8 = "a teacher in fp8"
ASKED = (PAIRS, FP8)
"""What i-MAE does behind a flag."""
