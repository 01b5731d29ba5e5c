"""Predicted seconds of an operator of a joint graph on one rank.

The larger of arithmetic and memory traffic (a roofline), and alpha + beta * bytes for collectives,
as the solver of layouts has it. FLOPs come from PyTorch's own table (`torch.utils.flop_counter`);
attention's from 2 * b * h * s * t * (d + e), half of it where the mask is causal.
"""

from __future__ import annotations

import math

from torch import fx

from ..capture import tensors_of
from ..compat.torch import example_size, flop_registry
from ..solve import Device
from . import kinds
from .joint import Joint

_COLLECTIVES = {
    "all_to_all_single": "all_to_all",
    "all_gather_into_tensor": "all_gather",
    "reduce_scatter_tensor": "reduce_scatter",
    "all_reduce": "all_reduce",
}


def node_seconds(joint: Joint, node: fx.Node, device: Device, p: int) -> float:
    """Seconds of one call; 0 for views and sizes."""
    made = joint.makes.get(node, ())
    if node.op != "call_function" or not made:
        return 0.0
    if kinds.is_collective(node):
        rate, latency = device.link(p)
        whole = max(sum(s.bytes for s in made), sum(s.bytes for s in joint.needs[node]))
        twice = 2 if kinds.name_of(node) == "all_reduce" else 1
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
        return 0.0
    args = fx.map_arg(node.args, lambda n: n.meta["val"])
    kwargs = fx.map_arg(node.kwargs, lambda n: n.meta["val"])
    try:
        return float(example_size(formula(*args, **kwargs, out_val=node.meta["val"])))
    except (TypeError, ValueError, AssertionError):  # a signature that the table does not know
        return 0.0


def _attention(node: fx.Node) -> float:
    q, k, v = (list(map(example_size, n.meta["val"].shape)) for n in node.args[:3])
    work = 2.0 * math.prod(q[:-1]) * k[-2] * (q[-1] + v[-1])
    return work / 2 if kinds.argument(node, "is_causal") else work
