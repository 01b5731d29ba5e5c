"""Windowed attentions in blocks are held against the graph before: as made they check, and no planted fault passes."""

from __future__ import annotations

import pytest
import torch
from torch import fx

from autosp.capture.copies import copy_graph
from autosp.errors import CheckError
from autosp.lower import band, check_bands
from autosp.lower.windows import BLOCK
from tests.lower.test_band import local_graph

SDPA = torch.ops.aten.scaled_dot_product_attention.default

aten = torch.ops.aten


@pytest.fixture(scope="module")
def before() -> fx.GraphModule:
    """A Mistral's local graph, of a window of 8 over 64 tokens."""
    return local_graph(64)


@pytest.mark.parametrize("length", [17, 33, 65])
def test_a_last_block_of_one_query_checks_and_one_that_sees_another_key_does_not(length: int):
    before = local_graph(length)
    gm = copy_graph(before)
    assert band(gm) == 2
    check_bands(before, gm)
    last = blocks(gm)[-1].args[3]
    (near,) = [n for n in last.all_input_nodes if n.target is aten.lt.Scalar]
    set_arg(near, 1, near.args[1] - 1)
    with pytest.raises(CheckError, match="is another than a window of 8"):
        check_bands(before, gm)


def blocks(gm: fx.GraphModule) -> list[fx.Node]:
    return next(n for n in gm.graph.nodes if BLOCK in n.meta).args[0]


def set_arg(node: fx.Node, i: int, value) -> None:
    node.args = (*node.args[:i], value, *node.args[i + 1 :])


def found(gm: fx.GraphModule, target, i: int = 0) -> fx.Node:
    return gm.graph.find_nodes(op="call_function", target=target)[i]


def a_wider_window(gm):
    for node in gm.graph.find_nodes(op="call_function", target=aten.lt.Scalar):
        set_arg(node, 1, node.args[1] + 1)


def a_mask_that_is_not_causal(gm):
    for node in gm.graph.find_nodes(op="call_function", target=aten.ge.Scalar):
        set_arg(node, 1, -1)


def the_first_blocks_mask(gm):
    first, _, last = blocks(gm)[0], blocks(gm)[1], blocks(gm)[-1]
    set_arg(last, 3, first.args[3])


def a_shorter_tail(gm):
    node = found(gm, aten.slice.Tensor)
    set_arg(node, 2, node.args[2] + 1)


def keys_of_another_block(gm):
    second, third = blocks(gm)[1:3]
    set_arg(second, 1, third.args[1])


def keys_for_values(gm):
    node = blocks(gm)[1]
    set_arg(node, 2, node.args[1])


def joined_in_another_order(gm):
    cat = next(n for n in gm.graph.nodes if BLOCK in n.meta)
    set_arg(cat, 0, [*cat.args[0][1:], cat.args[0][0]])


def a_block_left_out(gm):
    cat = next(n for n in gm.graph.nodes if BLOCK in n.meta)
    set_arg(cat, 0, cat.args[0][:-1])


def queries_cut_unevenly(gm):
    node = found(gm, aten.split_with_sizes.default)
    first, second, *rest = node.args[1]
    set_arg(node, 1, [first - 1, second + 1, *rest])


def another_scale(gm):
    node = blocks(gm)[2]
    node.kwargs = {**node.kwargs, "scale": 0.5}


def another_operator_elsewhere(gm):
    found(gm, aten.silu.default).target = aten.sigmoid.default


def another_layers_attention(gm):
    first, second = (n for n in gm.graph.nodes if BLOCK in n.meta)
    second.replace_all_uses_with(first)


FAULTS = (
    a_wider_window, a_mask_that_is_not_causal, the_first_blocks_mask, a_shorter_tail, keys_of_another_block,
    keys_for_values, joined_in_another_order, a_block_left_out, queries_cut_unevenly, another_scale,
    another_operator_elsewhere, another_layers_attention,
)  # fmt: skip


def test_what_is_made_checks(before: fx.GraphModule):
    after = copy_graph(before)
    assert band(after) == 2 and len(after.graph.find_nodes(op="call_function", target=SDPA)) == 16
    check_bands(before, after)


@pytest.mark.parametrize("plant", FAULTS, ids=lambda f: f.__name__)
def test_a_planted_fault_is_caught(plant, before: fx.GraphModule):
    after = copy_graph(before)
    band(after)
    made = str(after.graph)
    plant(after)
    assert str(after.graph) != made, "the fault found nothing to edit"
    with pytest.raises(CheckError) as error:
        check_bands(before, after)
    assert "AUTOSP_SKIP=window_attention" in str(error.value)
