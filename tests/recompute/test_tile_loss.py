"""The loss in tiles: the same loss and gradients as in one piece, whatever is written of it."""

from functools import partial

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from autosp.passes import global_graph
from autosp.recompute.tiling import Tiled, tile
from autosp.sharding import MeshAxis
from autosp.solve import Ends, load_device, solve
from autosp.spec import Tile
from tests.recompute.programs import (
    LOSSES,
    VOCAB,
    Head,
    local,
    misses,
    planned,
    run,
    run_all,
    through,
    tokens,
)  # fmt: skip

aten = torch.ops.aten


def cut(count, gm):
    """The graph with its loss in tiles."""
    new, tiled, notes = tile(gm, [Tile("loss", count)])
    assert len(tiled) == 1 and not notes, notes
    return new


@pytest.mark.parametrize(("batch", "length", "labels"), [(1, 13, "padded"), (2, 11, "padded"), (3, 2, "full")])
@pytest.mark.parametrize("name", LOSSES)
def test_loss_and_gradients_are_those_of_the_whole(name, batch, length, labels):
    plan, inputs = planned(partial(Head, LOSSES[name], bias=True), tokens(batch, length, labels))
    gm = local(plan)
    new, tiled, notes = tile(gm, [Tile("loss", 4)])
    assert [(t.what, t.module) for t in tiled] == [("loss", "head")], notes
    expected = run(gm, inputs)
    assert not misses(run(new, inputs), expected)
    if batch == 2:
        assert not misses(run(through("aot_eager", new, inputs), inputs), expected)


@pytest.mark.parametrize("name", LOSSES)
def test_without_a_valid_label_it_is_as_the_whole(name):
    plan, inputs = planned(partial(Head, LOSSES[name]), tokens(2, 7, "none"))
    gm = local(plan)
    expected = run(gm, inputs)
    assert not misses(run(cut(3, gm), inputs), expected)
    assert expected[0].isnan() == (name != "by_hand")


@pytest.mark.parametrize("p", [2, 3])
@pytest.mark.parametrize("name", ["huggingface", "soft_cap", "smoothed", "z_loss", "picked", "nll"])
def test_every_rank_has_tiles_of_its_own(name, p):
    """Thirteen tokens over three ranks: five, four and four, each in up to five tiles."""
    plan, inputs = planned(partial(Head, LOSSES[name]), tokens(1, 13), p)
    whole, tiled = run_all(plan, inputs), run_all(plan, inputs, partial(cut, 5))
    for expected, found in zip(whole, tiled, strict=True):
        assert not misses(found, expected)


def test_a_rank_may_hold_few_tokens_or_none():
    plan, inputs = planned(partial(Head, LOSSES["huggingface"]), tokens(1, 5, "full"), 4)
    made = [tile(local(plan, rank), [Tile("loss", 8)])[1:] for rank in range(4)]
    assert [[t.tiles for t in tiled] for tiled, _ in made] == [[2], [], [], []]
    assert made[1][1] == ("tile loss: head stays whole: this rank holds one token",)
    plan, inputs = planned(partial(Head, LOSSES["huggingface"]), tokens(1, 3, "full"), 4)
    _, notes = tile(local(plan, 3), [Tile("loss", 8)])[1:]
    assert notes == ("tile loss: head stays whole: this rank holds no token",)

    def some(gm):
        return tile(gm, [Tile("loss", 8)])[0]

    for expected, found in zip(run_all(plan, inputs), run_all(plan, inputs, some), strict=True):
        assert not misses(found, expected)


def test_tiles_are_of_sizes_that_differ_by_one():
    plan, _ = planned(partial(Head, LOSSES["huggingface"]), tokens(1, 13))
    new = cut(4, local(plan))
    splits = new.graph.find_nodes(op="call_function", target=aten.split_with_sizes.default)
    assert [n.args[1] for n in splits] == [[4, 3, 3, 3]] * 2  # the activations, and the labels


def test_the_dim_with_the_smallest_largest_tile_is_cut():
    plan, _ = planned(partial(Head, LOSSES["huggingface"]), tokens(8, 9))
    new, (found,), _ = tile(local(plan), [Tile("loss", 4)])
    splits = new.graph.find_nodes(op="call_function", target=aten.split_with_sizes.default)
    assert splits[0].args[1:] == ([2, 2, 2, 2], 0) and found.bytes_tile * 4 == found.bytes_whole


def test_what_was_tiled():
    plan, _ = planned(partial(Head, LOSSES["huggingface"]), tokens(1, 12))
    (found,) = tile(local(plan), [Tile("loss", 4)])[1]
    assert found == Tiled("loss", "head", 4, 12 * VOCAB * 4, 3 * VOCAB * 4, found.source)
    assert found.source.startswith("programs.py:") and "self.head(" in found.source


def test_tiling_twice_changes_nothing():
    plan, _ = planned(partial(Head, LOSSES["z_loss"]), tokens(1, 12))
    once = cut(4, local(plan))
    again, tiled, notes = tile(once, [Tile("loss", 2)])
    assert again is once and (tiled, notes) == ((), ())


def test_the_given_graph_stays_as_it_is():
    plan, _ = planned(partial(Head, LOSSES["nanogpt"]), tokens(1, 12))
    gm = local(plan)
    before = [(n.name, n.target, n.args, sorted(n.meta)) for n in gm.graph.nodes]
    new = cut(4, gm)
    assert before == [(n.name, n.target, n.args, sorted(n.meta)) for n in gm.graph.nodes]
    for old, own in zip(gm.graph.find_nodes(op="placeholder"), new.graph.find_nodes(op="placeholder"), strict=True):
        assert old.name == own.name and old.meta["val"] is own.meta["val"]
        assert getattr(old, "_dynamo_source", None) is getattr(own, "_dynamo_source", None)


def test_none_and_nothing_said_leave_the_graph_alone():
    plan, _ = planned(partial(Head, LOSSES["huggingface"]), tokens(1, 12))
    gm = local(plan)
    for said in ([], [Tile("loss", "none")], [Tile("loss", "none"), Tile("mlp", "none")]):
        assert tile(gm, said) == (gm, (), ())


def test_the_tokens_shift_moves_before_the_product():
    """nanoGPT's `logits[:, :-1]` needs all tokens: behind the head no tile could hold it."""
    plan, _ = planned(partial(Head, LOSSES["nanogpt_cap"]), tokens(1, 13))
    new = cut(4, local(plan))
    heads = new.graph.find_nodes(op="call_function", target=aten.linear.default)
    assert len(heads) == 4
    (split,) = {n.args[0].args[0] for n in heads}
    assert split.args[0].target is aten.slice.Tensor and split.args[1] == [3, 3, 3, 3]


def test_logits_that_are_read_elsewhere_are_not_moved_or_tiled():
    class Both(nn.Module):
        def __init__(self):
            super().__init__()
            self.head = nn.Linear(8, VOCAB)

        def forward(self, x, labels):
            logits = self.head(x)
            loss = F.cross_entropy(logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten())
            return loss, logits

    x = torch.randn(1, 9, 8)
    captured, _inputs = global_graph(Both(), {"x": x, "labels": torch.randint(VOCAB, (1, 9))})
    plan = solve(captured, Ends(("whole", "whole")), axis=MeshAxis("sp", 1), device=load_device("a100-80gb"))
    gm = local(plan)
    new, tiled, notes = tile(gm, [Tile("loss", 4)])
    assert new is gm and not tiled
    assert notes == ("tile loss: head stays whole: the whole values are an output of the graph",)


def test_a_dropped_tile_is_seen():
    """The comparison catches a planted fault: one tile's sum left out, or counted twice."""
    plan, inputs = planned(partial(Head, LOSSES["huggingface"]), tokens(1, 13, "full"))
    gm = local(plan)
    expected = run(gm, inputs)
    for kept in (0, 1):
        broken = cut(4, gm)
        total = broken.graph.find_nodes(op="call_function", target=aten.add.Tensor)[-1]
        total.args = (total.args[kept], total.args[kept] if kept else 0.0)
        broken.recompile()
        bad = misses(run(broken, inputs), expected)
        assert "value 0" in bad[0] and len(bad) > 2
