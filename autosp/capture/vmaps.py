"""A vmap as operators on whole tensors.

Dynamo writes a vmap out as calls that enter it, batch its operands, and leave it. Some of what runs in between (the
scan of `associative_scan`) is out of a trace's sight: each vmap is then traced by itself, one level lower.
"""

from __future__ import annotations

import inspect
import operator
from collections.abc import Iterator

import torch
from torch import fx

from ..compat import torch as lib
from ..errors import CaptureError
from ..rules import is_a
from .messages import backward_lost, no_grad_in_vmap

STOP = "autosp_stop"  # in a node's `meta["custom"]`: a gradient stops there


def has_vmaps(gm: fx.GraphModule) -> bool:
    """Whether Dynamo's graph enters a vmap."""
    return any(n.target is lib.vmap_enter for n in gm.graph.nodes)


def batches(traced: fx.GraphModule) -> bool:
    """Whether a trace holds calls of a vmap, as those of torch 2.11 do: nothing outside of it can run them."""
    return any(n.target is lib.vmap_batched for n in traced.graph.nodes)


def refuse_own_backwards() -> None:
    """In a vmap Dynamo goes through the forward of an autograd.Function and forgets its backward: the graph would hold
    the derivative of the forward. Raises CaptureError, one problem for each function."""
    codes = set(lib.codes_under_vmap()) if torch.is_grad_enabled() else set()
    if codes:
        lost = [f for f in _functions(torch.autograd.Function) if inspect.unwrap(f.forward).__code__ in codes]
        if lost:
            raise CaptureError([backward_lost(f) for f in lost])


def refuse_no_grad(gm: fx.GraphModule) -> None:
    """Raises CaptureError where a vmap of Dynamo's graph switches gradients off: its operators are traced below autograd,
    one by one, and would all have one."""
    faults = [no_grad_in_vmap(node) for part in gm.modules() if isinstance(part, fx.GraphModule) for node in _off(part)]
    if faults and torch.is_grad_enabled():
        raise CaptureError(dict.fromkeys(faults))


def _off(gm: fx.GraphModule) -> Iterator[fx.Node]:
    """What is computed first after gradients are switched off in a vmap."""
    depth = 0
    for node in gm.graph.nodes:
        depth += (node.target is lib.vmap_enter) - (node.target is lib.vmap_leave)
        if depth and node.target is lib.SET_GRAD_ENABLED and not node.args[0]:
            yield node.next


def _functions(base: type) -> Iterator[type]:
    for each in base.__subclasses__():
        if inspect.isfunction(inspect.unwrap(each.forward)):
            yield each
        yield from _functions(each)


def without_vmaps(gm: fx.GraphModule) -> fx.GraphModule:
    """The graph with each outermost vmap as one call of a module that says what it computes on whole tensors."""
    graph = fx.Graph()
    env: dict[fx.Node, fx.Node] = {}
    owner = fx.GraphModule(gm, fx.Graph())
    region: list[fx.Node] = []
    depth = 0
    for node in gm.graph.nodes:
        if node.op == "get_attr":
            setattr(owner, str(node.target), getattr(gm, str(node.target)))
        depth += node.target is lib.vmap_enter
        if not depth:
            env[node] = graph.node_copy(node, env.__getitem__)
            continue
        region.append(node)
        depth -= node.target is lib.vmap_leave
        if not depth:
            _call(region, graph, env, owner)
            region = []
    return fx.GraphModule(owner, graph)


def _call(region: list[fx.Node], graph: fx.Graph, env: dict[fx.Node, fx.Node], owner: fx.GraphModule) -> None:
    """A call of a region's module in the graph, and what of it is read outside."""
    inside = set(region)
    given = list(dict.fromkeys(n for node in region for n in node.all_input_nodes if n not in inside))
    read = [n for n in region if any(user not in inside for user in n.users)]
    name = f"vmap_{len(graph.nodes)}"
    owner.add_submodule(name, _Vmap(_body(region, given, read)))
    made = graph.call_module(name, tuple(env[n] for n in given))
    made.meta = dict(next((n.meta for n in region if "stack_trace" in n.meta), {}))
    for i, node in enumerate(read):
        env[node] = graph.call_function(operator.getitem, (made, i))
        env[node].meta = dict(node.meta)


def _body(region: list[fx.Node], given: list[fx.Node], read: list[fx.Node]) -> fx.GraphModule:
    """The nodes of a region as a graph of their own."""
    graph = fx.Graph()
    env = {n: graph.placeholder(n.name) for n in given}
    for node in region:
        env[node] = copy = graph.node_copy(node, env.__getitem__)
        if _is_detach(node):
            copy.meta["custom"] = {**(node.meta.get("custom") or {}), STOP: True}
    graph.output(tuple(env[n] for n in read))
    return fx.GraphModule(torch.nn.Module(), graph)


class _Vmap(torch.nn.Module):
    """Runs a region as what a trace of its own says: the trace in progress sees plain operators."""

    def __init__(self, body: fx.GraphModule):
        super().__init__()
        self.body = body

    def forward(self, *given):
        own = [x.detach() if isinstance(x, torch.Tensor) else x for x in given]
        traced = lib.trace_below(fx.Interpreter(self.body).run, own)
        for node in traced.graph.nodes:
            if STOP in (node.meta.get("custom") or {}) and is_a(node, "alias"):
                node.target = torch.ops.aten.detach.default
        return fx.Interpreter(traced).run(*given)


def _is_detach(node: fx.Node) -> bool:
    """Whether a gradient stops at a call: below autograd that is an alias like any other from torch 2.15 on."""
    by_name = node.target == "detach" or node.target in (torch.detach, torch.Tensor.detach, lib.GET_DATA)
    return by_name or is_a(node, "detach")
