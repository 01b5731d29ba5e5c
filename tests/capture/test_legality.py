"""Whatever a captured graph may not hold is found: as captured none is, and each planted fault is named."""

from __future__ import annotations

import attrs
import pytest
import torch
from torch import fx

from autosp.capture.copies import copy_graph
from autosp.capture.legality import LAWS, illegal
from autosp.errors import CheckError
from autosp.passes import Context, Program, run
from tests.lower.models import Llama, Toy, captured

aten = torch.ops.aten


def first(graph: fx.Graph, target) -> fx.Node:
    return graph.find_nodes(op="call_function", target=target)[0]


def a_function_of_python(graph: fx.Graph) -> None:
    first(graph, aten.add.Tensor).target = torch.add


def a_method(graph: fx.Graph) -> None:
    node = first(graph, aten.add.Tensor)
    node.op, node.target = "call_method", "add"


def a_write(graph: fx.Graph) -> None:
    first(graph, aten.add.Tensor).target = aten.add_.Tensor


def a_mean(graph: fx.Graph) -> None:
    node = first(graph, aten.cross_entropy_loss.default)
    node.args = (*node.args[:3], 1, *node.args[4:])


def an_unknown_value(graph: fx.Graph) -> None:
    del first(graph, aten.embedding.default).meta["val"]


def an_unknown_input(graph: fx.Graph) -> None:
    with graph.inserting_before(next(iter(graph.nodes))):
        graph.placeholder("stranger")


PLANTED = {
    a_function_of_python: "is not an operator",
    a_method: "it is a call_method",
    a_write: "aten.add_.Tensor writes in place",
    a_mean: "aten.cross_entropy_loss.default takes the mean itself",
    an_unknown_value: "of what aten.embedding.default gives nothing is known",
    an_unknown_input: "at stranger, it is not a parameter, buffer or input",
}


@pytest.mark.parametrize("program", [Llama(), Llama(attn="eager", mask="right"), Toy("tokens"), Toy("scan")], ids=str)
def test_what_is_captured_is_legal(program):
    assert illegal(captured(program)[0]) == []


@pytest.mark.parametrize("fault", PLANTED, ids=lambda f: f.__name__)
def test_a_planted_fault_is_named_where_the_stage_ends(fault):
    found, _ = captured(Llama())
    found = attrs.evolve(found, graph=copy_graph(found.graph))
    run(Program(found, stage="constrain"), Context(), until="outline_mapped")
    fault(found.graph.graph)
    with pytest.raises(CheckError) as caught:
        run(Program(found, stage="constrain"), Context(), until="outline_mapped")
    assert PLANTED[fault] in str(caught.value)
    assert "this is a fault of autosp" in caught.value.problems[0].fix


def test_every_law_says_what_it_is():
    assert all(law.__doc__ for law in LAWS)
