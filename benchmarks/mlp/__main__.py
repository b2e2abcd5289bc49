"""Which MLP products are the fastest: `python -m benchmarks.mlp --seconds 40 --out F.json`.

For each shape, the most valuable first: our products with several blocks, forward and backward
apart; torch's, followed by GELU, its derivative and the bias' gradient; and cuBLASLt's own
epilogue, a tanh GELU that keeps nothing for backward. That one is never chosen: it shows what could
be reached. Results must match fp32; then a call is timed by replays of a CUDA graph. Each row is
written as soon as it is measured. `--write F.json` measures nothing: it puts the winners into the
table that training reads, kernels/mlp_sm*.json. On a CPU, kernels run in Triton's interpreter: a
rehearsal, with --smoke.
"""

from __future__ import annotations

import sys

from benchmarks.mlp.cases import SHAPES, SMOKE_SHAPES
from benchmarks.mlp.table import summary, update
from benchmarks.mlp.variants import call_of, distance, inputs_of, variants
from benchmarks.sweeps import SweptOp, sweep_main
from fastimae.streams import closed_early_is_fine

OP = SweptOp(
    name="mlp", about=__doc__, columns=("rows", "width"), settings="blocks",
    shapes=SHAPES, smoke_shapes=SMOKE_SHAPES, variants=variants, inputs_of=inputs_of,
    call_of=call_of, distance=distance, summary=summary, update=update,
)  # fmt: skip


@closed_early_is_fine()
def main(argv: list[str] | None = None) -> int:
    """Return 0 if our products were correct with all blocks."""
    return sweep_main(OP, argv)


if __name__ == "__main__":
    sys.exit(main())
