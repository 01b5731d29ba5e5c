"""A graph in tiles is held against the one before: it checks as it is made, and no planted fault passes."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import pytest
import torch
from torch import fx

from autosp.errors import CheckError
from autosp.recompute import Tilings, check_tiles, tilings
from autosp.spec import Tile
from tests.recompute.programs import LOSSES, Gated, Head, local, planned, rows, tokens

aten = torch.ops.aten


def tiled(make: Callable, batch: dict, what: str, tiles: int = 3, dynamic: bool = False) -> tuple[Tilings, dict]:
    plan, _ = planned(make, batch, dynamic=dynamic)
    made = tilings(local(plan, 0), [Tile(what, tiles)], plan.problem.hints)
    assert made.whole is not None
    return made, plan.problem.hints


def loss(dynamic: bool = False):
    return tiled(partial(Head, LOSSES["z_loss"]), tokens(2, 11), "loss", dynamic=dynamic)


def mlp(dynamic: bool = False):
    return tiled(Gated, rows(2, 11), "mlp", dynamic=dynamic)


def calls(gm: fx.GraphModule, target, inside: bool | None = None) -> list[fx.Node]:
    found = gm.graph.find_nodes(op="call_function", target=target)
    return [n for n in found if inside is None or inside == ("autosp_tile" in n.meta)]


def set_arg(node: fx.Node, i: int, value) -> None:
    node.args = (*node.args[:i], value, *node.args[i + 1 :])


def cats(gm) -> list[fx.Node]:
    return calls(gm, aten.cat.default, inside=False)


def joined_in_another_order(gm):
    node = cats(gm)[0]
    set_arg(node, 0, [*node.args[0][1:], node.args[0][0]])


def a_tile_left_out(gm):
    node = cats(gm)[0]
    set_arg(node, 0, [*node.args[0][:-1], node.args[0][0]])


def joined_along_another_dim(gm):
    node = cats(gm)[0]
    set_arg(node, 1, node.args[1] - 1)


def cut_unevenly(gm):
    node = calls(gm, aten.split_with_sizes.default)[0]
    first, *rest = node.args[1]
    set_arg(node, 1, [first - 1, rest[0] + 1, *rest[1:]])


def cut_along_another_dim(gm):
    node = calls(gm, aten.split_with_sizes.default)[0]
    set_arg(node, 2, 0)


def another_tiles_piece(gm):
    """A tile reads what the next one should."""
    parts = calls(gm, aten.split_with_sizes.default)[0]
    first, second = sorted(parts.users, key=lambda n: n.args[1])[:2]
    first.replace_all_uses_with(second)


def another_label_ignored(gm):
    node = calls(gm, aten.cross_entropy_loss.default, inside=True)[1]
    assert -100 in node.args
    node.args = tuple(-1 if a == -100 else a for a in node.args)


def another_operator(gm):
    node = calls(gm, aten.silu.default, inside=True)[-1]
    node.target = aten.sigmoid.default


def another_weight(gm):
    """The gate's weight for the other one."""
    first, second = calls(gm, aten.linear.default, inside=True)[:2]
    second.replace_input_with(second.args[1], first.args[1])


def a_sum_without_its_last_tile(gm):
    adds = calls(gm, aten.add.Tensor, inside=False)
    node = [n for n in adds if "autosp_of" not in n.meta][-1]
    node.replace_all_uses_with(node.args[0])
    gm.graph.erase_node(node)


def a_tile_counted_twice(gm):
    node = [n for n in calls(gm, aten.add.Tensor, inside=False) if "autosp_of" not in n.meta][-1]
    node.replace_input_with(node.args[1], node.args[0])


def an_operand_of_the_tile_before(gm):
    """One tile multiplies by what another one made."""
    node = [n for n in calls(gm, aten.mul.Tensor, inside=True) if isinstance(n.args[1], fx.Node)]
    set_arg(node[1], 1, node[0].args[1])


def another_output(gm):
    out = gm.graph.output_node()
    out.args = (tuple(reversed(out.args[0])),) if len(out.args[0]) > 1 else ((next(iter(gm.graph.nodes)),),)


def a_detached_value(gm):
    node = calls(gm, aten.silu.default, inside=True)[0]
    with gm.graph.inserting_before(node):
        cut = gm.graph.call_function(aten.detach.default, (node.args[0],))
    node.replace_input_with(node.args[0], cut)


FAULTS = {
    joined_in_another_order: mlp, a_tile_left_out: mlp, joined_along_another_dim: mlp, cut_unevenly: mlp,
    cut_along_another_dim: loss, another_tiles_piece: mlp, another_label_ignored: loss, another_operator: mlp,
    another_weight: mlp, a_sum_without_its_last_tile: loss, a_tile_counted_twice: loss,
    an_operand_of_the_tile_before: mlp, another_output: mlp, a_detached_value: mlp,
}  # fmt: skip


@pytest.mark.parametrize("dynamic", [False, True], ids=["static", "dynamic"])
@pytest.mark.parametrize("program", [loss, mlp])
def test_what_is_made_checks(program, dynamic: bool):
    made, hints = program(dynamic)
    check_tiles(made.whole, made.local, hints)


@pytest.mark.parametrize("plant", FAULTS, ids=lambda f: f.__name__)
def test_a_planted_fault_is_caught(plant):
    made, hints = FAULTS[plant]()
    before = str(made.local.graph)
    plant(made.local)
    made.local.graph.lint()
    assert str(made.local.graph) != before, "the fault found nothing to edit"
    with pytest.raises(CheckError) as error:
        check_tiles(made.whole, made.local, hints)
    assert "AUTOSP_SKIP=tile" in str(error.value)
