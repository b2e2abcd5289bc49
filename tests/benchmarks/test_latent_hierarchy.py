"""Algorithms 1 and 2 of the hierarchical paper: its figure 4, and theorem 1 as d-separation."""

import itertools

import networkx as nx
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks.latent_hierarchy import (
    main,
    mean_level,
    quadtree,
    random_mask,
    shared_information,
    visible_information,
)

# Two trees of two levels, as in figure 4: z1 over z3 and z4, z2 over z5 and z6, pixels below.
FIGURE_4 = nx.DiGraph(
    [("z1", "z3"), ("z1", "z4"), ("z2", "z5"), ("z2", "z6"), ("z3", "x1"), ("z3", "x2"),
     ("z4", "x3"), ("z5", "x4"), ("z6", "x5"), ("z6", "x6")]
)  # fmt: skip
PIXELS = [f"x{number}" for number in range(1, 7)]


@pytest.mark.parametrize(
    "masked, expected",
    [
        (["x1"], {"z3"}),  # conservative: a part of the pixels below z3
        (["x1", "x2", "x3", "x4", "x5"], {"z6"}),  # aggressive: what is left is below z6
        (["x1", "x2", "x4"], {"z1", "z2"}),  # moderate: all pixels below z3, and below z5
    ],
)
def test_moderate_masks_share_the_highest_latents(masked, expected):
    visible = [pixel for pixel in PIXELS if pixel not in masked]
    assert shared_information(FIGURE_4, masked, visible)[0] == expected


def test_s_m_and_s_mc_are_the_remaining_sources_of_each_part():
    shared, of_masked = shared_information(FIGURE_4, ["x1", "x2"], ["x3", "x4", "x5", "x6"])
    of_visible, spouses = visible_information(FIGURE_4, ["x3", "x4", "x5", "x6"], shared)
    assert (shared, of_masked, spouses) == ({"z1"}, {"x1", "x2", "z3"}, set())
    assert of_visible == {"x3", "x4", "x5", "x6", "z4", "z5", "z6", "z2"}


def test_a_second_parent_beside_c_belongs_to_s_mc():
    graph = nx.DiGraph([("c", "x1"), ("c", "x2"), ("spouse", "x2")])
    shared, _ = shared_information(graph, ["x1"], ["x2"])
    assert shared == {"c"}
    assert visible_information(graph, ["x2"], shared) == ({"x2", "spouse"}, {"spouse"})


@st.composite
def forests(draw):
    """Draw a forest: the parent of each node but the first is an earlier one, or none."""
    count = draw(st.integers(3, 14))
    graph = nx.DiGraph()
    graph.add_nodes_from(range(count))
    for node in range(1, count):
        if (parent := draw(st.integers(-1, node - 1))) >= 0:
            graph.add_edge(parent, node)
    leaves = [node for node in graph if not graph.out_degree(node)]
    return graph, leaves, draw(st.sets(st.sampled_from(leaves)))


def known_from(graph, latents):
    """All that follows from latents: each determines its parents, as its function is invertible."""
    return latents.union(*(nx.ancestors(graph, latent) for latent in latents))


@settings(max_examples=150, deadline=None)
@given(forests())
def test_c_separates_the_parts_of_a_forest_and_no_less_does(case):
    graph, leaves, masked = case
    visible = set(leaves) - masked
    if not masked or not visible:
        return
    shared, of_masked = shared_information(graph, masked, visible)
    of_visible, _ = visible_information(graph, visible, shared)
    assert nx.is_d_separator(graph, masked, visible, known_from(graph, shared))
    assert not of_masked & of_visible
    for latent in shared:
        less = known_from(graph, shared - {latent})
        assert not nx.is_d_separator(graph, masked, visible, less)


def test_masks_have_the_ratio_and_the_unit():
    masked, visible = random_mask(4, 0.75, 4, np.random.default_rng(0))
    assert len(masked) == 192 and len({*masked, *visible}) == 256
    squares = {(row // 4, column // 4) for _, row, column in masked}
    inside = itertools.product(range(4), repeat=2)
    assert {(0, 4 * r + i, 4 * c + j) for (i, j) in inside for r, c in squares} == set(masked)


def test_on_a_quadtree_the_level_of_c_follows_the_unit(capsys):
    for unit, level in ((1, 1), (2, 2), (4, 3)):
        assert mean_level(4, 0.75, unit, 5) == pytest.approx(level, abs=0.05)
    main(["--depth", "3", "--ratios", "0.1", "0.5", "--units", "1", "2", "--draws", "2"])
    assert capsys.readouterr().out.splitlines()[2:] == [
        "| 1 | 0.1 | 1 |", "| 1 | 0.5 | 1 |", "| 2 | 0.1 | 2 |", "| 2 | 0.5 | 2 |"
    ]  # fmt: skip
    assert set(quadtree(1)) == {(1, 0, 0), (0, 0, 0), (0, 0, 1), (0, 1, 0), (0, 1, 1)}
