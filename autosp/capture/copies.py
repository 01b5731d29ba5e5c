"""Copies of a captured graph: as it is, or with a number for every symbol."""

from __future__ import annotations

from collections.abc import Mapping
from operator import attrgetter

import attrs
import sympy
import torch
from torch import fx

from ..compat.torch import FakeTensorMode, carry_placeholder, carry_sources, tree_map
from ..sharding import as_size
from .own import OwnBackward, own_of


def copy_graph(gm: fx.GraphModule) -> fx.GraphModule:
    """The same graph, whose nodes may be replaced."""
    graph = fx.Graph()
    env: dict[fx.Node, fx.Node] = {}
    for node in gm.graph.nodes:
        env[node] = new = graph.node_copy(node, env.__getitem__)
        if node.op == "placeholder":
            carry_placeholder(node, new)
    copied = fx.GraphModule({n.target: attrgetter(n.target)(gm) for n in gm.graph.find_nodes(op="get_attr")}, graph)
    copied.meta.update(gm.meta)
    carry_sources(gm, copied)
    return copied


def with_numbers(gm: fx.GraphModule, hints: Mapping[sympy.Symbol, int]) -> fx.GraphModule:
    """A copy without symbolic sizes, each the number that it had in the example."""
    copied, mode = copy_graph(gm), FakeTensorMode(allow_non_fake_inputs=True)
    numbers: dict[fx.Node, object] = {}
    for node in list(copied.graph.nodes):
        node.args, node.kwargs = fx.map_arg((node.args, node.kwargs), lambda n: numbers.get(n, n))
        if own := own_of(node):
            node.target = _own_with_numbers(own, hints).called(node.target.__name__)
        if "val" not in node.meta:
            continue
        val = node.meta["val"]
        node.meta["val"] = tree_map(lambda x: _in_number(x, hints, mode), val)
        if isinstance(val, torch.SymInt) and isinstance(node.meta["val"], int):
            numbers[node] = node.meta["val"]
        elif isinstance(val, (torch.SymFloat, torch.SymBool)) and node.op != "placeholder" and not node.all_input_nodes:
            numbers[node] = node.meta["val"] = node.target(*node.args, **node.kwargs)
    for node in reversed(list(numbers)):
        if node.op != "placeholder":
            copied.graph.erase_node(node)
    copied.graph.lint()
    copied.recompile()
    return copied


def _own_with_numbers(own: OwnBackward, hints: Mapping) -> OwnBackward:
    forward, backward = with_numbers(own.forward, hints), with_numbers(own.backward, hints)
    return attrs.evolve(own, forward=forward, backward=backward)


def _in_number(x: object, hints: Mapping, mode: FakeTensorMode) -> object:
    if isinstance(x, torch.SymInt):
        return _number(x, hints)
    if not isinstance(x, torch.Tensor):
        return x
    sizes, strides = [_number(n, hints) for n in x.shape], [_number(n, hints) for n in x.stride()]
    with mode:
        return torch.empty_strided(sizes, strides, dtype=x.dtype, device=x.device, requires_grad=x.requires_grad)


def _number(size: object, hints: Mapping) -> object:
    """The size that a symbolic one had in the example; itself where it depends on data."""
    value = sympy.sympify(as_size(size)).xreplace(dict(hints))
    return int(value) if value.is_Integer else size


__all__ = ["copy_graph", "with_numbers"]
