"""From a split of one factor to the placements of every tensor of a call, and back."""

from __future__ import annotations

from functools import reduce
from operator import mul
from typing import Any

import attrs
import sympy

from ..sharding import PARTIAL, REPLICATE, Kind, Placement, Size, Split, as_size, count, divide, make_split
from .projection import Dims, Projection


def product(sizes: Any) -> Size:
    """The product of sizes, 1 for none."""
    return as_size(reduce(mul, sizes, 1))


def find(dims: Dims, factor: int) -> tuple[int, int] | None:
    """The dim that holds the factor, and its place in that dim."""
    for d, factors in enumerate(dims):
        if factor in factors:
            return d, factors.index(factor)
    return None


def surroundings(projection: Projection, dims: Dims, dim: int, place: int) -> tuple[Size, Size]:
    """The sizes of the factors before and after one in its dim."""
    sizes = [projection.sizes[f] for f in dims[dim]]
    return product(sizes[:place]), product(sizes[place + 1 :])


def split_of(
    projection: Projection, dims: Dims, factor: int, outer: Size, units: Size, inner: Size, p: int
) -> Split | None:
    """The split of a tensor under a split of one factor; None where it lacks the factor."""
    place = find(dims, factor)
    if place is None:
        return None
    before, after = surroundings(projection, dims, *place)
    return make_split(place[0], before * outer, units, inner * after, p)


def project(
    projection: Projection, factor: int, outer: Size, units: Size, inner: Size, p: int
) -> tuple[tuple[Placement | None, ...], tuple[Placement, ...]]:
    """The placements of operands and results when `factor` is split as (outer, units, inner).

    None: the operand lacks the factor, so it is needed whole. Under a reduce, `once` operands and
    results are partial sums.
    """
    summed = projection.kinds[factor] == "reduce"

    def placed(dims: Dims) -> Split | None:
        return split_of(projection, dims, factor, outer, units, inner, p)

    operands: list[Placement | None] = [placed(dims) for dims in projection.operands]
    if summed:
        operands = [PARTIAL if i in projection.once else o for i, o in enumerate(operands)]
    sums = [summed or (factor, i) in projection.partial for i in range(len(projection.results))]
    results = [PARTIAL if s else placed(d) or REPLICATE for s, d in zip(sums, projection.results)]
    return tuple(operands), tuple(results)


def factor_of(projection: Projection, operand: int, split: Split) -> tuple[int, Size, Size, Size] | None:
    """The factor that a split of an operand (or of result `~operand`) lies within, and how.

    Gives (factor, outer, units, inner), or None where the split crosses factors. A negative
    `operand` counts results: -1 is the first.
    """
    dims = projection.operands[operand] if operand >= 0 else projection.results[~operand]
    for place, factor in enumerate(dims[split.dim]):
        before, after = surroundings(projection, dims, split.dim, place)
        outer, inner = divide(split.outer, before), divide(split.inner, after)
        if outer is None or inner is None:
            continue
        if as_size(outer * split.units * inner) == as_size(projection.sizes[factor]):
            return factor, outer, split.units, inner
    return None


def narrowed(projection: Projection, part: tuple[int, Size, Size, Size], p: int, rank: int | None = None) -> Projection:
    """The call on one of `p` ranks that split a factor as `part` has it, (factor, outer, units, inner): as further axes
    find it. Without a rank, of what all ranks have alike: a factor that they hold unequally much of has no size."""
    factor, outer, units, inner = part
    even = isinstance(units, int) and units % p == 0
    local_size = (
        as_size(outer * count(units, p, rank or 0) * inner) if rank is not None or even else sympy.Dummy("uneven")
    )
    sizes = tuple(local_size if f == factor else n for f, n in enumerate(projection.sizes))
    return attrs.evolve(projection, sizes=sizes)


def splittable(projection: Projection) -> list[int]:
    """The factors that may be split."""
    return [f for f, kind in enumerate(projection.kinds) if kind != "whole"]


def whole_placement(placement: Placement | None, kind: Kind) -> Placement:
    """`placement`, or `kind` where a tensor is needed whole."""
    return kind if placement is None else placement


def renamed(projection: Projection, rule: str) -> Projection:
    """The projection with the rule that gave it."""
    return attrs.evolve(projection, rule=rule)
