"""Tiles one after another, in a compiler that would join their kernels."""

import itertools
from functools import partial

import pytest
import torch

from autosp.recompute.tile_order import InOrder, leaves, regions, waiting
from autosp.recompute.tiling import tile
from autosp.rules import is_a
from autosp.spec import Tile
from tests.recompute.held import graphs
from tests.recompute.programs import LOSSES, Gated, Head, local, misses, own, planned, rows, run, tokens

WIDE, TOKENS, TILES = 512, 128, 4
LOSS = partial(Head, LOSSES["huggingface"], vocab=WIDE)


def tiled(make, inputs, what):
    plan, given = planned(make, inputs)
    gm = local(plan)
    return gm, tile(gm, [Tile(what, TILES)])[0], given


@pytest.mark.parametrize(
    ("make", "inputs", "what"),
    [(LOSS, tokens(1, TOKENS, vocab=WIDE), "loss"), (partial(Gated, wide=WIDE), rows(1, TOKENS), "mlp")],
    ids=["loss", "mlp"],
)
def test_every_product_waits_for_the_tile_before(make, inputs, what):
    _, new, given = tiled(make, inputs, what)
    for nodes, order in zip(
        (list(g.graph.nodes) for g in graphs(new, given)), (range(TILES), range(TILES)[::-1]), strict=True
    ):
        (found,) = regions(nodes).values()
        assert [t[0].meta["custom"]["autosp_tile"] for t in found] == [(f"{what}.0", i) for i in order]
        waits = dict(waiting(nodes))
        for before, after in itertools.pairwise(found):
            products = [n for n in after if is_a(n, "matmul")]
            for p in products:
                there = nodes[: nodes.index(p)]
                assert waits.get(p, []) == [n for n in leaves(before) if n in there]
            assert products[0] in waits


def test_a_graph_without_tiles_is_left_alone():
    gm, _, given = tiled(LOSS, tokens(1, TOKENS, vocab=WIDE), "loss")
    for graph in graphs(gm, given):
        before = str(graph.graph)
        InOrder()(graph.graph)
        assert str(graph.graph) == before


@pytest.mark.slow
@pytest.mark.inductor
def test_inductor_holds_one_tile_of_logits():
    """Without the pass all tiles' softmax backwards are one kernel, and all logits wait for it."""
    from torch._inductor.compile_fx import compile_fx
    from torch._inductor.utils import run_and_get_code

    gm, new, given = tiled(LOSS, tokens(1, TOKENS, vocab=WIDE), "loss")
    expected = run(gm, given)
    made = []
    for patches in ({}, {"post_grad_custom_post_pass": InOrder()}):
        torch._dynamo.reset()

        def step(patches=patches):
            return run(compile_fx(new, [own(x) for x in given], config_patches=patches), given)

        with torch._inductor.config.patch(force_disable_caches=True):  # a cached program shows no code
            found, codes = run_and_get_code(step)
        assert not misses(found, expected)
        shape = f"empty_strided_cpu(({TOKENS // TILES}, {WIDE})"
        made.append([code.count(shape) for code in codes])
    assert made[0][1] >= TILES - 1 and made[1] == [1, 1]
