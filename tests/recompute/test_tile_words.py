"""How many tiles `auto` makes, what is said of what stays whole, and slices that move for the solver."""

from functools import partial
from types import SimpleNamespace

import pytest
from torch import nn

from autosp.passes import global_graph
from autosp.recompute import messages, tiling
from autosp.recompute.tile_hoist import hoisted
from autosp.recompute.tiling import tile
from autosp.sharding import MeshAxis
from autosp.solve import load_device, solve
from autosp.spec import Tile
from tests.lower.models import ends, layout_of
from tests.recompute.programs import (
    LOSSES,
    VOCAB,
    WIDTH,
    Gated,
    Head,
    local,
    misses,
    planned,
    rows,
    run_all,
    tokens,
)  # fmt: skip

HEAD, TOKENS = partial(Head, LOSSES["huggingface"]), 130


@pytest.mark.parametrize(("most", "count"), [(64, VOCAB // WIDTH), (5, 5)])
def test_auto_makes_a_tile_of_logits_as_large_as_the_activations(monkeypatch, most, count):
    monkeypatch.setitem(tiling.LEAST, "loss", 1000)
    monkeypatch.setitem(tiling.MOST, "loss", most)
    plan, _ = planned(HEAD, tokens(1, TOKENS))
    (found,) = tile(local(plan), [Tile("loss")])[1]
    assert found.tiles == count
    assert found.bytes_whole == TOKENS * VOCAB * 4
    assert found.bytes_tile == -(-TOKENS // count) * VOCAB * 4


@pytest.mark.parametrize(("room", "count"), [(0, 12), (4 * 12 * 1000, 5), (2**40, 2)])
def test_a_budget_makes_fewer_tiles_that_it_does_not_feel(monkeypatch, room, count):
    """One part of a budget in so many, and never the whole."""
    monkeypatch.setitem(tiling.LEAST, "loss", 1000)
    monkeypatch.setattr(tiling, "PART", 4)
    plan, _ = planned(HEAD, tokens(1, TOKENS))
    (found,) = tile(local(plan), [Tile("loss")], room=room)[1]
    assert found.tiles == count


def test_auto_makes_an_mlps_intermediates_as_large_as_its_ends(monkeypatch):
    """Gate, its activation, up and their product, 40 wide, against 8 in and 8 out."""
    monkeypatch.setitem(tiling.LEAST, "mlp", 1000)
    plan, _ = planned(Gated, rows(1, 100))
    (found,) = tile(local(plan), [Tile("mlp")])[1]
    assert (found.tiles, found.bytes_whole, found.bytes_tile) == (10, 100 * 160 * 4, 10 * 160 * 4)


def test_auto_leaves_small_values_whole():
    plan, _ = planned(HEAD, tokens(1, TOKENS))
    gm = local(plan)
    note = "tile loss: head stays whole: its widest value is 48.8 KiB, and 'auto' makes tiles from 32.0 MiB"
    assert tile(gm, [Tile("loss")]) == (gm, (), (note,))
    plan, _ = planned(Gated, rows(1, 100))
    note = "tile mlp: gate stays whole: its intermediates are 62.5 KiB, and 'auto' makes tiles from 256.0 MiB"
    assert tile(local(plan), [Tile("mlp")])[2] == (note,)


def test_one_tile_is_the_whole():
    plan, _ = planned(HEAD, tokens(1, TOKENS))
    assert tile(local(plan), [Tile("loss", 1)])[1:] == ((), ("tile loss: head stays whole: one tile is the whole",))


def test_a_program_without_a_loss_over_features_says_so():
    class Normed(nn.Module):
        def __init__(self):
            super().__init__()
            self.norm = nn.LayerNorm(WIDTH)

        def forward(self, x, y):
            return (self.norm(x) - y).square().mean()

    plan, _ = planned(Normed, rows(1, 9))
    note = "tile loss: no product with a weight is followed by a loss over its features"
    assert tile(local(plan), [Tile("loss", 3)])[2] == (note,)


def test_layers_that_are_alike_share_a_note():
    why = "one tile is the whole"
    notes = [("mlp", f"model.layers.{i}.mlp", why) for i in (0, 1, 11)] + [("mlp", "head.0", why)]
    assert list(messages.gathered(notes)) == [
        "tile mlp: model.layers.*.mlp (3 of them) stays whole: one tile is the whole",
        "tile mlp: head.0 stays whole: one tile is the whole",
    ]
    assert list(messages.gathered([("loss", "", why)])) == ["tile loss: the loss stays whole: one tile is the whole"]


NODE = SimpleNamespace(target=print)


@pytest.mark.parametrize(
    ("said", "text"),
    [
        (messages.no_rule(NODE), "'print' has no rule"),
        (messages.needs_whole(NODE), "'print' needs the tokens whole"),
        (messages.cuts_features(NODE), "'print' cuts the features"),
        (messages.reads_sum(NODE), "'print' reads a sum over the tokens"),
        (messages.biased_sum(NODE), "'print' adds a bias to a sum over the tokens"),
        (messages.two_dims(NODE), "'print' is read along two different dims"),
        (messages.reordered(), "nothing is tiled: tiles would change the order of what ranks send"),
        (messages.size(3 * 2**30), "3.0 GiB"),
        (messages.size(5), "5 B"),
    ],
)
def test_words(said, text):
    assert said == text


@pytest.mark.parametrize("dynamic", [False, True])
@pytest.mark.parametrize("name", ["nanogpt", "nanogpt_cap"])
def test_a_slice_of_tokens_moves_before_the_head_for_the_solver(name, dynamic):
    """Ranks gather what goes into the head, not the logits; nothing else changes."""
    captured, inputs = global_graph(Head(LOSSES[name]).train(), tokens(2, 11), layout_of=layout_of, dynamic=dynamic)

    def plan(p):
        return solve(captured, ends(captured), axis=MeshAxis("sp", p), device=load_device("a100-80gb"))

    def gathered():
        return sum(r.bytes for r in plan(3).reshards if r.kind == "all_gather")

    (expected,), before = run_all(plan(1), inputs), gathered()
    assert hoisted(captured) is captured
    assert gathered() * VOCAB == before * WIDTH or gathered() * 10 < before
    length = len(captured.graph.graph.nodes)
    assert len(hoisted(captured).graph.graph.nodes) == length  # nothing is left to move
    for found in run_all(plan(3), inputs):
        assert not misses(found, expected)
