"""Faults of lowering, each a small edit of the local graphs, and each seen by the parity comparison."""

import operator
from collections.abc import Callable

import pytest
import torch
from torch import fx

from autosp.lower import Rank, convert, lower, scale_gradient
from autosp.parity import run_ranks
from autosp.sharding import INVARIANT, REPLICATE, Split
from tests.lower.models import Program, Toy, captured, misses, named, planned, reference

aten = torch.ops.aten
P = 4
UNEVEN = Toy("tokens", length=10)
Edit = Callable[[fx.GraphModule, int], None]


def run(program: Program, edit: Edit) -> list[str]:
    """What misses the bar on any rank when every local graph is edited."""
    plan = planned(program, P)
    graph, inputs = captured(program)

    def body(rank: int, group):
        gm = lower(plan, Rank(rank, group.name))
        before = str(gm.graph)
        edit(gm, rank)
        assert edit is nothing or str(gm.graph) != before, "the fault found nothing to edit"
        gm.graph.lint()
        gm.recompile()
        own = [x.detach().clone().requires_grad_(x.requires_grad) for x in inputs]
        outputs = gm(*own)
        outputs[0].backward()
        return named(graph, outputs, [x.grad for x in own])

    return [miss for found in run_ranks(P, body) for miss in misses(found, reference(program))]


def nothing(gm: fx.GraphModule, rank: int) -> None:
    pass


def kinds(node: fx.Node) -> tuple[str, str]:
    """What a conversion is from, and to."""
    return node.args[1][0].word, node.args[2][0].word


def changes(gm: fx.GraphModule, src: str, dst: str) -> list[fx.Node]:
    """The conversions between two kinds, in order."""
    return [n for n in gm.graph.nodes if n.target is convert and kinds(n) == (src, dst)]


def bypass(node: fx.Node) -> None:
    """A conversion that does nothing, forward and backward."""
    for item in list(node.users):
        item.replace_all_uses_with(node.args[0][item.args[1]])
        node.graph.erase_node(item)
    node.graph.erase_node(node)


def set_arg(node: fx.Node, i: int, value) -> None:
    node.args = (*node.args[:i], value, *node.args[i + 1 :])


def dropped_all_reduce(gm, rank):
    bypass(changes(gm, "partial", "invariant")[0])


def all_reduce_with_the_wrong_backward(gm, rank):
    """The gradient of a loss that all ranks hold, summed once more."""
    set_arg(changes(gm, "partial", "invariant")[0], 2, (REPLICATE,))


def incomplete_parameter(gm, rank):
    bypass(changes(gm, "invariant", "replicate")[0])


def wrong_gradient_scale(gm, rank):
    output = gm.graph.output_node()
    loss = output.args[0][0]
    with gm.graph.inserting_before(output):
        scaled = gm.graph.call_function(scale_gradient, (loss, 1.0 / P))
    output.args = ((scaled, *output.args[0][1:]),)


def swapped_units(gm, rank):
    """Heads dealt in turn instead of in blocks, one way only."""
    node = changes(gm, "split", "split")[0]
    set_arg(node, 2, tuple(Split(s.dim, s.inner, s.units, s.outer) for s in node.args[2]))


def swapped_tensors(gm, rank):
    """Two tensors of one message are taken for each other."""
    items = sorted(changes(gm, "split", "split")[0].users, key=lambda n: n.args[1])
    set_arg(items[0], 1, 1)
    set_arg(items[1], 1, 0)


def wrong_adjoint_of_a_cut(gm, rank):
    """Keys and values of a gathered attention, whose gradients are parts, taken for whole ones."""
    node = changes(gm, "split", "replicate")[0]
    set_arg(node, 2, tuple(INVARIANT for _ in node.args[2]))


def _loss(gm) -> fx.Node:
    return next(n for n in gm.graph.nodes if n.target is aten.cross_entropy_loss.default)


def labels_cut_before_the_shift(gm, rank):
    loss, call = _loss(gm), gm.graph.call_function
    whole = next(n for n in gm.graph.nodes if n.target in (aten.pad.default, aten.constant_pad_nd.default))
    labels, here = whole.args[0], changes(gm, "partial", "invariant")[0].args[3]
    with gm.graph.inserting_before(whole):
        split = Split(1, 1, UNEVEN.length, 1)
        cut = call(convert, ((labels,), (REPLICATE,), (split,), here, False))
        own = call(operator.getitem, (cut, 0))
        padded = call(aten.constant_pad_nd.default, (own, [0, 1], -100))
        shifted = call(aten.slice.Tensor, (padded, 1, 1, 2**62))
        flat = call(aten.reshape.default, (shifted, [-1]))
    loss.args[1].replace_all_uses_with(flat)


def mean_of_local_means(gm, rank):
    """Each rank divides by its own number of tokens, and the means are averaged."""
    loss = _loss(gm)
    (divide,) = [n for n in gm.graph.nodes if n.target is aten.div.Tensor]
    count, call = divide.args[1], gm.graph.call_function
    users = list(loss.users)
    with gm.graph.inserting_after(count if _after(gm, count, loss) else loss):
        at = call(aten.ne.Scalar, (loss.args[1], -100))
    with gm.graph.inserting_after(at):
        own = call(aten.sum.default, (at,))
    with gm.graph.inserting_after(own):
        ratio = call(aten.div.Tensor, (count, own))
    with gm.graph.inserting_after(ratio):
        scaled = call(aten.mul.Tensor, (loss, ratio))
    with gm.graph.inserting_after(scaled):
        mean = call(aten.div.Tensor, (scaled, P))
    for user in users:
        user.replace_input_with(loss, mean)


def _after(gm, a: fx.Node, b: fx.Node) -> bool:
    order = list(gm.graph.nodes)
    return order.index(a) > order.index(b)


def bias_on_every_rank(gm, rank):
    for node in (*changes(gm, "replicate", "partial"), *changes(gm, "invariant", "partial")):
        bypass(node)


FAULTS = [
    (dropped_all_reduce, UNEVEN),
    (all_reduce_with_the_wrong_backward, UNEVEN),
    (incomplete_parameter, UNEVEN),
    (wrong_gradient_scale, UNEVEN),
    (mean_of_local_means, UNEVEN),
    (swapped_units, Toy("attention", length=10, heads=8)),
    (swapped_tensors, Toy("fused", length=10)),
    (labels_cut_before_the_shift, UNEVEN),
    (wrong_adjoint_of_a_cut, Toy("attention", length=10, heads=2)),
    (bias_on_every_rank, Toy("pooled")),
]


@pytest.mark.parametrize("program", sorted({program for _, program in FAULTS}, key=str), ids=str)
def test_without_a_fault_nothing_misses(program):
    assert run(program, nothing) == []


@pytest.mark.parametrize(("fault", "program"), FAULTS, ids=lambda x: getattr(x, "__name__", ""))
def test_a_fault_is_seen(fault, program):
    assert run(program, fault)
