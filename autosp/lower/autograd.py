"""The gradients of a whole graph's values, call by call, as PyTorch's autograd has them."""

from __future__ import annotations

import operator
from operator import attrgetter
from typing import Any

import torch
from torch import fx

from ..capture import Captured, tensors_of
from ..capture.autograd import Autograd, Meta, example, leaves
from ..capture.casts import REGION, casts_of
from ..compat.torch import SET_GRAD_ENABLED
from ..sharding import comm
from ..solve.problem import Problem
from .conversions import convert


def autograd_of_ranks() -> Autograd:
    """One to ask about local graphs too, whose collectives wait for no other rank then."""
    return Autograd(comm.unsimulated)


class Flow:
    """One graph's values as autograd has them, node by node.

    env: by node, what it gives. flows: by node, per tensor that it gives, the (node, place) that its gradient flows to.
    roots: likewise, the placeholders that it flows to in the end, as bits. casts: by call, the graph's own autocast
    regions that it is in; around them all are those of `around`, open when the program begins.
    """

    def __init__(self, autograd: Autograd, graph: fx.Graph, captured: Captured):
        self.autograd, self.grad, self.around = autograd, captured.training, captured.autocast
        self.casts = casts_of(graph)
        self.env: dict[fx.Node, Any] = {}
        self.flows: dict[fx.Node, tuple[frozenset, ...]] = {}
        self.roots: dict[fx.Node, tuple[int, ...]] = {}

    def leaf(self, node: fx.Node, value: Any, root: int = 0) -> None:
        """A node that no call gives."""
        self.env[node] = value
        self.flows[node], self.roots[node] = (frozenset(),), (root,)

    def constant(self, node: fx.Node, value: Any) -> None:
        """An attribute of the graph: a tensor, or a function."""
        self.leaf(node, Meta.of(value, False) if isinstance(value, torch.Tensor) else value)

    def call(self, node: fx.Node) -> None:
        """A call, on what its arguments are by now."""
        if node.target in REGION:
            return self.leaf(node, None)
        if node.target is operator.getitem and isinstance(self.env[node.args[0]], (list, tuple)):
            return self._item(node, *node.args)
        args, kwargs = fx.map_arg((node.args, dict(node.kwargs)), self.env.__getitem__)
        outcome = self.autograd.call(node.target, args, kwargs, self.grad, (*self.around, *self.casts[node]))
        operands = self._operands(node)
        apart = node.target is convert  # its tensors only travel together
        self.env[node] = outcome.value
        self.flows[node] = tuple(
            frozenset(operands[i] for i in reached if not apart or i == r) for r, reached in enumerate(outcome.reached)
        )
        self.roots[node] = tuple(self._joined(ends) for ends in self.flows[node])

    def _item(self, node: fx.Node, source: fx.Node, i: int) -> None:
        values = self.env[source]
        self.env[node] = values[i]
        if isinstance(values[i], Meta):
            place = _tensors(values[:i])
            self.flows[node], self.roots[node] = (self.flows[source][place],), (self.roots[source][place],)

    def _operands(self, node: fx.Node) -> list[tuple[fx.Node, int]]:
        """What gives a call's tensors, in their order, as often as they occur."""
        operands: list[tuple[fx.Node, int]] = []
        fx.map_arg((node.args, node.kwargs), lambda n: operands.extend((n, j) for j in range(_tensors(self.env[n]))))
        return operands

    def _joined(self, ends: frozenset) -> int:
        bits = 0
        for node, place in ends:
            bits |= self.roots[node][place]
        return bits


def _tensors(value: Any) -> int:
    return sum(isinstance(leaf, Meta) for leaf in leaves(value))


def flow_of(problem: Problem, autograd: Autograd) -> Flow:
    """The global graph's, from the placeholders on that autograd sees require a gradient."""
    captured = problem.captured
    flow = Flow(autograd, captured.graph.graph, captured)
    wanting = {p.node: p.requires_grad and captured.training for p in captured.placeholders}
    reads = any(not op.results for op in problem.ops)  # then every number is worked out anew
    for i, node in enumerate(captured.graph.graph.nodes):
        val = node.meta.get("val")
        if node.target is SET_GRAD_ENABLED:
            flow.grad = bool(node.args[0]) and captured.training
        elif node.op == "placeholder":
            grad = wanting.get(node.name, False)
            flow.leaf(node, example(val, problem.hints, grad), 1 << i if grad else 0)
        elif node.op == "get_attr":
            flow.constant(node, attrgetter(node.target)(captured.graph))
        elif node.op == "call_function" and (tensors_of(val) or reads):
            flow.call(node)
        elif node.op == "call_function":
            flow.leaf(node, example(val, problem.hints, False))
    return flow
