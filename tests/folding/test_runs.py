"""What repeats in a graph, by structure: parts, what they read, and where they end."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import pytest
import torch
from torch import fx

from autosp.folding import Short, find_repetitions, shortened

WIDTH = 4


def traced(layers: Sequence[Callable], first: Callable = torch.sin, last: Callable = torch.sum) -> fx.GraphModule:
    """A graph of one input that all layers may read, and one weight for each."""
    graph = fx.Graph()
    x = graph.placeholder("x")
    weights = [graph.placeholder(f"w{i}") for i in range(len(layers))]
    h = graph.call_function(first, (x,))
    for i, layer in enumerate(layers):
        h = layer(graph, h, weights[i], x)
    graph.output((graph.call_function(last, (h,)),))
    return fx.GraphModule({}, graph)


def plain(graph: fx.Graph, h: fx.Node, w: fx.Node, x: fx.Node) -> fx.Node:
    y = graph.call_function(torch.matmul, (h, w))
    return graph.call_function(torch.add, (h, graph.call_function(torch.tanh, (y,))))


def with_input(graph: fx.Graph, h: fx.Node, w: fx.Node, x: fx.Node) -> fx.Node:
    return graph.call_function(torch.mul, (plain(graph, h, w, x), x))


def scaled(by: float) -> Callable:
    def layer(graph: fx.Graph, h: fx.Node, w: fx.Node, x: fx.Node) -> fx.Node:
        return graph.call_function(torch.mul, (plain(graph, h, w, x), by))

    return layer


def examples(gm: fx.GraphModule, frozen: Sequence[int] = ()) -> list[torch.Tensor]:
    count = len(gm.graph.find_nodes(op="placeholder"))
    return [torch.ones(WIDTH, WIDTH, requires_grad=i - 1 not in frozen) for i in range(count)]


@pytest.mark.parametrize(
    ("layers", "parts"),
    [
        ([plain] * 6, [(6, 3)]),
        ([with_input] * 5, [(5, 4)]),
        ([scaled(2.0)] * 4, [(4, 4)]),
        ([scaled(2.0), scaled(3.0)] * 3, [(3, 8)]),  # a pattern of two
        ([plain, plain], []),  # of two parts nothing tells what changes from each to the next
        ([scaled(float(i)) for i in range(6)], []),  # another constant in each
        ([plain] * 4 + [with_input] * 4, [(5, 3), (3, 4)]),  # the fifth begins as the four before it
    ],
)
def test_equal_parts_are_found(layers, parts):
    gm = traced(layers)
    found = find_repetitions(gm, examples(gm))
    assert [(len(run), run.period) for run in found] == parts
    assert all(n.op == "placeholder" and n.name != "x" for run in found for inputs in run.inputs for n in inputs)


def test_weights_are_of_their_part():
    gm = traced([plain] * 4)
    (run,) = find_repetitions(gm, examples(gm))
    assert [[n.name for n in inputs] for inputs in run.inputs] == [["w0"], ["w1"], ["w2"], ["w3"]]


def test_a_frozen_weight_is_unlike_one_that_is_trained():
    gm = traced([plain] * 8)
    (run,) = find_repetitions(gm, examples(gm, frozen=(0, 1)))
    assert len(run) == 6 and [n.name for n in run.inputs[0]] == ["w2"]


def test_a_weight_that_something_else_reads_is_no_parts_own():
    gm = traced([plain] * 5)
    weight = next(n for n in gm.graph.nodes if n.name == "w2")
    end = gm.graph.output_node()
    with gm.graph.inserting_before(end):
        end.args = ((*end.args[0], gm.graph.call_function(torch.neg, (weight,))),)
    assert find_repetitions(gm, examples(gm)) == ()


def short_of(gm: fx.GraphModule, kept: int = 3) -> Short | None:
    return shortened(gm, find_repetitions(gm, examples(gm)), kept)


@pytest.mark.parametrize("layers", [[plain] * 6, [with_input] * 5, [scaled(2.0), scaled(3.0)] * 4], ids=len)
def test_a_short_graph_is_the_program_of_fewer_layers(layers):
    gm = traced(layers)
    short = short_of(gm)
    gm.recompile()
    kept = len(layers) - short.missing(0) * (len(layers) // len(short.runs[0]))
    fewer = traced(layers[:kept])
    given = [torch.randn(WIDTH, WIDTH) for _ in range(kept + 1)]
    assert torch.equal(short.graph(*given)[0], fewer(*given)[0])
    assert short.of == tuple(range(kept + 1)) and short.inputs[0] is None and short.inputs[1] == (0, 0, 0)


def test_a_run_whose_parts_are_read_later_is_not_shortened():
    gm = traced([plain] * 6)
    second = [n for n in gm.graph.nodes if n.target is torch.add][1]
    end = gm.graph.output_node()
    with gm.graph.inserting_before(end):
        end.args = ((*end.args[0], gm.graph.call_function(torch.neg, (second,))),)
    assert short_of(gm) is None
    assert short_of(traced([plain] * 6), kept=6) is None  # nothing to leave out
