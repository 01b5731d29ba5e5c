"""Floating-point operations of a call, by its rule."""

from __future__ import annotations

from ..sharding import Size
from .projection import Projection


def multiplied(projection: Projection) -> tuple[Size, ...]:
    """The sizes whose product is the number of multiply-adds of a call; empty where it contracts nothing.

    A call that sums over a factor of two operands multiplies all its factors. A multiply-add counts two operations.
    """
    inside = {f for dims in projection.results for d in dims for f in d}
    shared = [
        f
        for f in range(len(projection.sizes))
        if f not in inside and sum(any(f in d for d in dims) for dims in projection.operands) > 1
    ]
    return projection.sizes if shared else ()
