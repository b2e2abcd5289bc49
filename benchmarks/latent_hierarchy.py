"""What a mask teaches in theory: the latents of a hierarchy that masked and visible parts share.

Kong et al., "Understanding Masked Autoencoders via Hierarchical Latent Variable Models": theorem 1
and figure 4 by algorithms 1 and 2 of appendix A, for any latent graph. That of real images is not
known, so `python -m benchmarks.latent_hierarchy` takes a quadtree over the patches. There the level
of c follows the mask unit: whatever the ratio, some latent just above the squares has masked and
visible squares below it, and by the pruning of algorithm 1 it replaces all latents above itself.
The paper's rise and fall over ratios takes small graphs, such as its figure 4.

No model is trained here: this is the theory, not evidence about a MAE.
"""

from __future__ import annotations

import argparse
import itertools
import statistics
from collections.abc import Hashable, Iterable, Iterator, Sequence

import networkx as nx
import numpy as np

from fastimae.evaluate.pages.tables import markdown
from fastimae.streams import closed_early_is_fine

Node = Hashable


def shared_information(
    graph: nx.DiGraph, masked: Iterable[Node], visible: Iterable[Node]
) -> tuple[set[Node], set[Node]]:
    """Locate c, what the masked and the visible part share, and s_m (algorithm 1).

    graph: edges from parents to children; each variable n also has an exogenous parent, which is
    not in the graph. masked, visible: the observables. Returns the latents of c, and the variables
    whose exogenous parents are s_m.
    """
    visible = set(visible)
    above_visible = set().union(*(nx.ancestors(graph, x) for x in visible))
    shared: set[Node] = set()
    exogenous: set[Node] = set()
    climbed = set(masked)
    while climbed:
        exogenous |= climbed
        parents = set().union(*(graph.predecessors(node) for node in climbed))
        shared |= parents & above_visible
        climbed = parents - above_visible
    pruned = {
        latent for latent in shared
        if nx.descendants(graph, latent) & (shared - {latent}) & above_visible
    }  # fmt: skip
    return shared - pruned, exogenous


def visible_information(
    graph: nx.DiGraph, visible: Iterable[Node], shared: set[Node]
) -> tuple[set[Node], set[Node]]:
    """Locate s_mc, what only the visible part has, given c (algorithm 2).

    Returns the variables whose exogenous parents are in s_mc, and the latents in it: those that
    have a child in common with a latent of c. The paper notes that s_mc is not unique.
    """
    exogenous: set[Node] = set()
    spouses: set[Node] = set()
    climbed = set(visible)
    while climbed:
        exogenous |= climbed
        above: set[Node] = set()
        for node in climbed:
            parents = set(graph.predecessors(node))
            above |= parents - shared
            if parents & shared:
                spouses |= parents - shared
        climbed = above
    return exogenous, spouses


def quadtree(depth: int) -> nx.DiGraph:
    """Return a tree over 2**depth x 2**depth patches, (0, row, column); latents: (level, ...)."""
    graph = nx.DiGraph()
    for level in range(depth):
        side = 2 ** (depth - level)
        for row, column in itertools.product(range(side), repeat=2):
            graph.add_edge((level + 1, row // 2, column // 2), (level, row, column))
    return graph


def random_mask(
    depth: int, ratio: float, unit: int, rng: np.random.Generator
) -> tuple[list[Node], list[Node]]:
    """Draw the masked and the visible patches of a quadtree, in squares of unit x unit patches."""
    side = 2**depth // unit
    squares = rng.permutation(side**2)
    count = min(max(round(ratio * side**2), 1), side**2 - 1)
    parts: list[Node] = []
    for square in squares:
        row, column = divmod(int(square), side)
        inside = itertools.product(range(unit), repeat=2)
        parts += [(0, row * unit + down, column * unit + right) for down, right in inside]
    return parts[: count * unit**2], parts[count * unit**2 :]


def mean_level(depth: int, ratio: float, unit: int, draws: int, seed: int = 0) -> float:
    """Return the mean level of the latents in c over random masks; 1: just above the patches."""
    graph, rng = quadtree(depth), np.random.default_rng(seed)
    levels = []
    for _ in range(draws):
        shared, _ = shared_information(graph, *random_mask(depth, ratio, unit, rng))
        levels.append(statistics.fmean(level for level, *_ in shared))
    return statistics.fmean(levels)


def rows(
    depth: int, ratios: Sequence[float], units: Sequence[int], draws: int
) -> Iterator[dict[str, float]]:
    """Yield a row of the table for each ratio and unit."""
    for unit, ratio in itertools.product(units, ratios):
        level = mean_level(depth, ratio, unit, draws)
        yield {"mask_unit": unit, "mask_ratio": ratio, "mean_level": level}


@closed_early_is_fine()
def main(argv: Sequence[str] | None = None) -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.latent_hierarchy",
                                     description=__doc__.splitlines()[0])  # fmt: skip
    parser.add_argument("--depth", type=int, default=4, help="2**depth x 2**depth patches")
    parser.add_argument("--ratios", type=float, nargs="+",
                        default=[0.02, 0.1, 0.25, 0.5, 0.75, 0.9, 0.98])  # fmt: skip
    parser.add_argument("--units", type=int, nargs="+", default=[1, 2, 4],
                        help="sides of masked squares, in patches")  # fmt: skip
    parser.add_argument("--draws", type=int, default=20, help="masks for each point")
    args = parser.parse_args(argv)
    print(markdown(list(rows(args.depth, args.ratios, args.units, args.draws))))


if __name__ == "__main__":
    main()
