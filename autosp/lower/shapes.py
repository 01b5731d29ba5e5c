"""The shapes of what one rank computes, on fake tensors."""

from __future__ import annotations

import torch
from torch import fx

from ..sharding import Coordinate, Placement, Sharding, Split
from ..solve.problem import hint_of
from .conversions import convert


class OnShapes(fx.Interpreter):
    """Runs a body of an autograd.Function on fake tensors, without a collective."""

    def call_function(self, target, args, kwargs):
        if target is not convert:
            return super().call_function(target, args, kwargs)
        return converted(*args)


def converted(xs, srcs, dsts, at: Coordinate, diff: bool) -> tuple[torch.Tensor, ...]:
    """What `convert` gives, of shapes alone."""
    found = []
    for x, src, dst in zip(xs, srcs, dsts, strict=True):
        shape = list(x.shape)
        if isinstance(src, Split):
            shape[src.dim] = src.size
        if isinstance(dst, Split):
            shape[dst.dim] = dst.held(at.size, at.rank)
        found.append(torch.empty(shape, dtype=x.dtype, device=x.device))
    return tuple(found)


def placement_in_numbers(placement: Placement, hints: dict) -> Placement:
    if not isinstance(placement, Split):
        return placement
    return Split(placement.dim, *(hint_of(x, hints) for x in placement[1:]))


def in_numbers(sharding: Sharding, hints: dict) -> Sharding:
    """A sharding with its sizes in the example's numbers."""
    return Sharding(tuple((axis, placement_in_numbers(at, hints)) for axis, at in sharding.pairs))
