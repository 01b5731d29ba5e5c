"""Which splits each value may have, and which parts of which dims belong to a mesh axis.

A *region* (dim, outer, units, inner, axes) marks the part of a dim that descends from an input's
dim which the spec splits over `axes`. Regions flow forward through factors. Candidates flow both
ways, from every factor that an operator may split, until nothing changes.
"""

from __future__ import annotations

from collections import defaultdict

import attrs

from ..layout import Split, divide, make_split
from ..rules import factor_of, project
from .problem import Op, Problem, Value


@attrs.frozen
class Region:
    """`[outer, outer * units)` of a dim, called `name` and split over `axes` by the spec."""

    split: Split
    axes: tuple[str, ...]
    name: str = ""


def mark(problem: Problem, seeds: dict[Value, list[Region]], axis: str) -> None:
    """Write each value's regions, from those of the inputs."""
    for value, regions in seeds.items():
        value.regions.update(regions)
        problem.lengths.update(r.split.units for r in regions if axis in r.axes)
    for op in problem.ops:
        if op.projection is None:
            continue
        for i, value in enumerate(op.operands):
            for region in sorted(value.regions, key=repr):
                for factor, outer, units, inner in covered(op, i, region.split):
                    _tag_results(op, factor, (outer, units, inner), region)


def covered(op: Op, i: int, s: Split):
    """The factors of the operand's dim that a region covers, with the part covered of each."""
    inside = factor_of(op.projection, i, s)
    if inside is not None:
        yield inside
        return
    before = 1
    for f in op.projection.operands[i][s.dim]:
        size = op.projection.sizes[f]
        if divide(before, s.outer) is not None and divide(s.outer * s.units, before * size) is not None:
            yield f, 1, size, 1
        before = before * size


def _tag_results(op: Op, factor: int, part, region: Region) -> None:
    outer, units, inner = part
    for r, dims in enumerate(op.projection.results):
        for d, factors in enumerate(dims):
            if factor in factors:
                pre, post = _around(op, factors, factor)
                op.results[r].regions.add(attrs.evolve(region, split=Split(d, pre * outer, units, inner * post)))


def _around(op: Op, factors, factor):
    """The sizes before and after a factor within its dim."""
    pre = post = 1
    seen = False
    for f in factors:
        if f == factor:
            seen = True
        elif seen:
            post = post * op.projection.sizes[f]
        else:
            pre = pre * op.projection.sizes[f]
    return pre, post


def overlaps(problem: Problem, s: Split, r: Split) -> bool:
    """Whether a split deals out some of a region."""
    h = problem.hint
    return s.dim == r.dim and h(s.outer) < h(r.outer * r.units) and h(r.outer) < h(s.outer * s.units)


def allowed(problem: Problem, value: Value, s: Split, axis: str, p: int) -> bool:
    """A split over `axis` must leave the other axes' dims alone, and must deal at least one unit
    to every rank unless it deals out the very length that the spec splits."""
    for region in value.regions:
        if region.axes and axis not in region.axes and overlaps(problem, s, region.split):
            return False
    return problem.hint(s.units) >= p or s.units in problem.lengths


def candidates(problem: Problem, axis: str, p: int) -> dict[Value, frozenset[Split]]:
    """The splits over `axis` that each value may have."""
    found: dict[Value, set[Split]] = defaultdict(set)
    parts: dict[Op, set] = defaultdict(set)
    changed = True
    sweep = 0
    while changed and sweep < 20:
        changed = False
        order = problem.ops if sweep % 2 == 0 else reversed(problem.ops)
        for op in order:
            if op.projection is not None and _close(problem, op, found, parts[op], axis, p):
                changed = True
        sweep += 1
    return {v: frozenset(found[v]) for v in problem.values}


def _close(problem, op: Op, found, parts: set, axis: str, p: int) -> bool:
    """Extend the parts of an operator's factors that may be split, and their images."""
    pr = op.projection
    new = set()
    for f, kind in enumerate(pr.kinds):
        if kind != "whole" and pr.sizes[f] != 1:
            new.add((f, *_canonical(1, pr.sizes[f], 1, p)))
    for i, v in enumerate(op.operands):
        for s in found[v]:
            at = factor_of(pr, i, s)
            if at is not None and pr.kinds[at[0]] != "whole":
                new.add((at[0], *_canonical(*at[1:], p)))
    for r, v in enumerate(op.results):
        for s in found[v]:
            at = factor_of(pr, ~r, s)
            if at is not None and pr.kinds[at[0]] != "whole":
                new.add((at[0], *_canonical(*at[1:], p)))
    fresh = sorted(new - parts, key=repr)
    for f, outer, units, inner in fresh:
        parts.add((f, outer, units, inner))
        ins, outs = project(pr, f, outer, units, inner, p)
        for v, s in zip((*op.operands, *op.results), (*ins, *outs)):
            if isinstance(s, Split) and allowed(problem, v, s, axis, p):
                found[v].add(s)
    return bool(fresh)


def _canonical(outer, units, inner, p):
    s = make_split(0, outer, units, inner, p)
    return s.outer, s.units, s.inner


def parts_of(problem: Problem, op: Op, found: dict[Value, frozenset[Split]], axis: str, p: int):
    """Every (factor, outer, units, inner) by which an operator may be split, in a fixed order."""
    pr = op.projection
    if pr is None:
        return []
    parts: set = set()
    _close(problem, op, {v: set(found[v]) for v in (*op.operands, *op.results)}, parts, axis, p)
    keep = []
    for part in sorted(parts, key=lambda t: (t[0], str(t[1:]))):
        ins, outs = project(pr, *part, p)
        ends = zip((*op.operands, *op.results), (*ins, *outs))
        if all(not isinstance(s, Split) or allowed(problem, v, s, axis, p) for v, s in ends):
            keep.append((part, ins, outs))
    return keep
