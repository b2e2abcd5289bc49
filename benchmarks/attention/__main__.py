"""Which attention is the fastest: `python -m benchmarks.attention --seconds 40 --out F.json`.

For each shape, the most valuable first: our kernel with several passes, forward and backward apart,
and the back ends of SDPA. Results must match float64; then a call is timed by replays of a CUDA
graph. Each row is written as soon as it is measured. `--write F.json` measures nothing: it puts the
winners into the table that training reads, kernels/attention_sm*.json. On a CPU, kernels run in
Triton's interpreter: a rehearsal, with --smoke.
"""

from __future__ import annotations

import sys

from benchmarks.attention.cases import SHAPES, SMOKE_SHAPES
from benchmarks.attention.table import summary, update
from benchmarks.attention.variants import call_of, distance, inputs_of, variants
from benchmarks.sweeps import SweptOp, sweep_main
from fastimae.streams import closed_early_is_fine

OP = SweptOp(
    name="attention", about=__doc__, columns=("tokens", "head_dim"), settings="pass",
    shapes=SHAPES, smoke_shapes=SMOKE_SHAPES, variants=variants, inputs_of=inputs_of,
    call_of=call_of, distance=distance, summary=summary, update=update,
)  # fmt: skip


@closed_early_is_fine()
def main(argv: list[str] | None = None) -> int:
    """Return 0 if every pass of our kernel was correct; a back end that fails has a row for it."""
    return sweep_main(OP, argv)


if __name__ == "__main__":
    sys.exit(main())
