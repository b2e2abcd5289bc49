"""The matrix products of a step: `python -m benchmarks.gemm --out F.json`.

The products of transformer blocks at the benchmark's batches: forward with bias, for the gradient
of the input (dX), and for that of the weight (dW), in bf16; on a GPU timed as replayed graphs. A
row has TFLOP/s, and that as a share of what a large square product reaches in the same run.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping
from typing import NamedTuple

import torch
from torch import Tensor

from benchmarks.harness import BenchmarkReport, page, table, usual_parser
from benchmarks.timing import Turns, calls_of, interleaved, sets_of
from fastimae.engine.peak import CPU_SIDES, GPU_SIDE, product_rate
from fastimae.engine.precision import DTYPES
from fastimae.streams import closed_early_is_fine

PROG = "python -m benchmarks.gemm"
ROUNDS, SQUARE_ROUNDS = 7, 15
SQUARE_SIDE = {"cuda": GPU_SIDE, "cpu": CPU_SIDES[-1]}
BYTES = 2
Row = dict[str, object]


class BlockShape(NamedTuple):
    """Rows and width of a stack of blocks."""

    name: str
    rows: int
    """Tokens in a batch."""
    width: int


class Operands(NamedTuple):
    """The tensors of a linear layer."""

    x: Tensor
    weight: Tensor
    bias: Tensor
    grad: Tensor


STACKS = (
    BlockShape("MAE-B encoder", 256 * 50, 768),
    BlockShape("MAE-B decoder", 256 * 197, 512),
    BlockShape("MAE-L encoder", 128 * 50, 1024),
)
SMOKE_STACKS = (BlockShape("smoke", 64, 48),)
LAYERS = {"qkv": (1, 3), "proj": (1, 1), "fc1": (1, 4), "fc2": (4, 1)}
"""Widths of input and output, in multiples of the stack's."""
PRODUCTS: dict[str, Callable[[Operands], Tensor]] = {
    "forward": lambda o: torch.addmm(o.bias, o.x, o.weight.t()),
    "dX": lambda o: o.grad @ o.weight,
    "dW": lambda o: o.grad.t() @ o.x,
}


@closed_early_is_fine()
def main(argv: list[str] | None = None) -> int:
    """Measure, and print the table."""
    options = parser().parse_args(argv)
    device = torch.device(options.device)
    report = BenchmarkReport(device, PROG, argv, options.out, page=markdown, square={}, rows=[])
    report.keep()
    report["square"] = measure_square(device, 256 if options.smoke else None)
    for stack in SMOKE_STACKS if options.smoke else STACKS:
        for layer in LAYERS:
            report["rows"] += measure(stack, layer, device, report["square"]["bf16"])
            report.keep()
    report.finish()
    print(markdown(report))
    return 0


def parser() -> argparse.ArgumentParser:
    """Make the parser of the command line."""
    return usual_parser(PROG, __doc__)


def measure_square(device: torch.device, side: int | None = None) -> dict[str, float]:
    """Measure the operations per second of square products, by format: see `product_rate`."""
    side = side or SQUARE_SIDE[device.type]
    return {
        name: product_rate(device, DTYPES[name], side, SQUARE_ROUNDS) for name in ("bf16", "fp32")
    }


def measure(stack: BlockShape, layer: str, device: torch.device, square: float) -> list[Row]:
    """Measure the products of one layer. square: operations per second of the square product."""
    fan_in, fan_out = (times * stack.width for times in LAYERS[layer])
    size = BYTES * (stack.rows * (fan_in + fan_out) + fan_in * fan_out)
    sets = [operands(stack.rows, fan_in, fan_out, device) for _ in range(sets_of(size, device))]
    turns = {name: Turns(product, sets) for name, product in PRODUCTS.items()}
    calls = calls_of(size, len(sets))
    timings = interleaved(turns, device, rounds=ROUNDS, calls=calls, replays=True)
    flops = 2 * stack.rows * fan_in * fan_out
    return [
        {
            "stack": stack.name, "layer": layer, "product": name,
            "rows": stack.rows, "in": fan_in, "out": fan_out,
            "us": 1e6 * timing.median, "us 20 %": 1e6 * timing.low, "us 80 %": 1e6 * timing.high,
            "TFLOP/s": flops / timing.median / 1e12,
            "of square": flops / timing.median / square,
            "timed": timing.timed,
        }
        for name, timing in timings.items()
    ]  # fmt: skip


def operands(rows: int, fan_in: int, fan_out: int, device: torch.device) -> Operands:
    """Draw bf16 tensors: x [rows, in], weight [out, in], bias [out], grad [rows, out]."""
    shapes = (rows, fan_in), (fan_out, fan_in), (fan_out,), (rows, fan_out)
    return Operands(*(torch.randn(*s, device=device, dtype=torch.bfloat16) for s in shapes))


def products_table(report: Mapping) -> str:
    """Make a row for each layer: TFLOP/s of its products, and shares of the square one's."""
    lines: dict[tuple, dict[str, object]] = {}
    for row in report["rows"]:
        key = {name: row[name] for name in ("stack", "layer", "rows", "in", "out")}
        line = lines.setdefault(tuple(key.values()), key)
        line[f"{row['product']}, TFLOP/s"] = f"{row['TFLOP/s']:.3g} ({row['of square']:.0%})"
    return table(list(lines.values()))


def markdown(report: Mapping) -> str:
    """Make the page of a report."""
    square = square_line(report["square"], "Shares are of bf16.")
    return page(report, square, products_table(report))


def square_line(rates: Mapping[str, float], use: str) -> str:
    """List the rates of `measure_square`, and say what they are used for."""
    found = [f"{name} {rate / 1e12:.3g}" for name, rate in rates.items()]
    return f"Square matrix products, TFLOP/s: {', '.join(found)}. {use}\n"


if __name__ == "__main__":
    raise SystemExit(main())
