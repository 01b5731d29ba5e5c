"""The shapes of what one rank computes, on fake tensors."""

from __future__ import annotations

import torch
from torch import fx

from ..capture.own import bodies_of
from ..compat.torch import FakeTensor, FakeTensorMode
from ..sharding import Coordinate, Placement, Sharding, Split
from ..solve.problem import hint_of
from .conversions import convert, mean_over, scale_gradient


class OnShapes(fx.Interpreter):
    """Runs one rank's graph, or a body of an autograd.Function in it, on fake tensors, without a collective.

    record: writes what each node gives into its `val`. mode: of the fakes, where constants are to be fakes too.
    """

    def __init__(self, gm: fx.GraphModule, record: bool = False, mode: FakeTensorMode | None = None):
        super().__init__(gm, garbage_collect_values=True)
        self.record, self.mode = record, mode

    def run_node(self, n: fx.Node):
        out = super().run_node(n)
        if self.record and n.op != "output":
            n.meta["val"] = out
        return out

    def call_function(self, target, args, kwargs):
        own = bodies_of(target)
        if target is convert:
            return converted(*args)
        if target is scale_gradient:
            return args[0].view_as(args[0])
        if target is mean_over:
            return torch.empty_like(args[0], dtype=args[0].dtype if args[0].is_floating_point() else torch.float64)
        if own is not None:
            return OnShapes(own.forward).run(*args)[0]
        return super().call_function(target, args, kwargs)

    def get_attr(self, target, args, kwargs):
        value = super().get_attr(target, args, kwargs)
        if self.mode is None or not isinstance(value, torch.Tensor) or isinstance(value, FakeTensor):
            return value
        return self.mode.from_tensor(value, static_shapes=True)


def converted(xs, srcs, dsts, at: Coordinate, diff: bool) -> tuple[torch.Tensor, ...]:
    """What `convert` gives, of shapes alone."""
    outputs = []
    for x, src, dst in zip(xs, srcs, dsts, strict=True):
        shape = list(x.shape)
        if isinstance(src, Split):
            shape[src.dim] = src.size
        if isinstance(dst, Split):
            shape[dst.dim] = dst.local_size(at.size, at.rank)
        outputs.append(torch.empty(shape, dtype=x.dtype, device=x.device))
    return tuple(outputs)


def placement_in_numbers(placement: Placement, hints: dict) -> Placement:
    if not isinstance(placement, Split):
        return placement
    return Split(placement.dim, *(hint_of(x, hints) for x in placement[1:]))


def in_numbers(sharding: Sharding, hints: dict) -> Sharding:
    """A sharding with its sizes in the example's numbers."""
    return Sharding(tuple((axis, placement_in_numbers(at, hints)) for axis, at in sharding.pairs))
