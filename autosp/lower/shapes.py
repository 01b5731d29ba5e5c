"""The shapes of what one rank computes, on fake tensors."""

from __future__ import annotations

import torch
from torch import fx

from ..layout import Placement, Split
from ..solve.problem import hint_of
from .conversions import convert


class OnShapes(fx.Interpreter):
    """Runs a body of an autograd.Function on fake tensors, without a collective."""

    def call_function(self, target, args, kwargs):
        if target is not convert:
            return super().call_function(target, args, kwargs)
        xs, _, srcs, dsts, p, rank, _, _ = args
        found = []
        for x, src, dst in zip(xs, srcs, dsts, strict=True):
            shape = list(x.shape)
            if src is not None:
                shape[src[0]] = src[1] * src[2] * src[3]
            if dst is not None:
                shape[dst[0]] = dst[1] * ((dst[2] + (p - 1 - rank)) // p) * dst[3]
            found.append(torch.empty(shape, dtype=x.dtype, device=x.device))
        return tuple(found)


def placement_in_numbers(placement: Placement, hints: dict) -> Placement:
    if not isinstance(placement, Split):
        return placement
    return Split(placement.dim, *(hint_of(x, hints) for x in (placement.outer, placement.units, placement.inner)))
