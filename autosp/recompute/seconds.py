"""Predicted seconds of an operator of a joint graph on one rank.

The larger of arithmetic and memory traffic (a roofline), and alpha + beta * bytes for collectives,
as the solver of layouts has it. FLOPs come from PyTorch's own table (`torch.utils.flop_counter`),
of a product that is not in it from its rule's factors;
attention's from 2 * b * h * s * t * (d + e), half of it where the mask is causal.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import fx

from ..capture import tensors_of
from ..compat.torch import example_size, flop_registry, tree_map
from ..errors import RuleError
from ..rules import argument, default_rules, is_a, named
from ..rules.flops import multiplied
from ..solve import Device
from . import kinds
from .joint import Joint


def node_seconds(joint: Joint, node: fx.Node, device: Device, p: int) -> float:
    """Seconds of one call; 0 for views and sizes."""
    made = joint.makes.get(node, ())
    if node.op != "call_function" or not made:
        return 0.0
    if kinds.is_collective(node):
        rate, latency = device.link(p)
        whole = max(sum(s.bytes for s in made), sum(s.bytes for s in joint.needs[node]))
        twice = 2 if is_a(node, "all_reduce") else 1
        return latency + twice * whole * (p - 1) / max(p, 1) / rate
    traffic = sum(s.bytes for s in (*made, *joint.needs.get(node, ()))) / device.bandwidth
    dtype = next(t.dtype for t in tensors_of(node.meta["val"]))
    return max(flops(node) / device.flops(dtype), traffic)


def flops(node: fx.Node) -> float:
    """Floating-point operations of one call; a multiply-add counts two."""
    if kinds.is_attention(node):
        return _attention(node)
    formula = flop_registry.get(getattr(node.target, "overloadpacket", None))
    if formula is None:
        return _by_rule(node) if kinds.is_matmul(node) else 0.0
    args = fx.map_arg(node.args, lambda n: n.meta["val"])
    kwargs = fx.map_arg(node.kwargs, lambda n: n.meta["val"])
    try:
        return float(example_size(formula(*args, **kwargs, out_val=node.meta["val"])))
    except (TypeError, ValueError, AssertionError):  # a signature that the table does not know
        return 0.0


def _by_rule(node: fx.Node) -> float:
    """The operations of a product that PyTorch's table does not know: one of a library's, with a rule."""
    args, kwargs, val = (_on_example(x) for x in (node.args, node.kwargs, node.meta["val"]))
    try:
        sizes = multiplied(default_rules().bind(node.target, args, kwargs, val))
    except RuleError:  # its kind is stated, and not its factors
        return 0.0
    return 2.0 * math.prod(sizes) if sizes else 0.0


def _on_example(x: Any) -> Any:
    """Values without memory, in the sizes of the example."""

    def one(value: Any) -> Any:
        if isinstance(value, fx.Node):
            value = value.meta["val"]
        if isinstance(value, torch.Tensor):
            return torch.empty(tuple(map(example_size, value.shape)), dtype=value.dtype, device="meta")
        return example_size(value) if isinstance(value, torch.SymInt) else value

    return tree_map(one, x)


def _attention(node: fx.Node) -> float:
    q, k, v = (list(map(example_size, n.meta["val"].shape)) for n in named(node, "attention"))
    work = 2.0 * math.prod(q[:-1]) * k[-2] * (q[-1] + v[-1])
    return work / 2 if argument(node, "is_causal") else work
