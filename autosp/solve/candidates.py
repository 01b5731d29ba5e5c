"""Which splits each value may have, and which parts of which dims belong to a mesh axis.

A *region* (dim, outer, units, inner, axes) marks the part of a dim that descends from an input's
dim which the spec splits over `axes`. Regions flow forward through factors. Candidates flow both
ways, from every factor that an operator may split, until nothing changes.
"""

from __future__ import annotations

from collections.abc import Mapping

import attrs

from ..capture.regions import KEY
from ..errors import PlanError
from ..errors import Problem as Fault
from ..rules import Projection, factor_of, project
from ..sharding import Split, divide, make_split
from ..spec import Map
from ..syntax import problem_at
from .mapped_modules import mapped_projection
from .problem import Op, Problem, Value, of_data


@attrs.frozen
class Region:
    """`[outer, outer * units)` of a dim, called `name` and split over `axes` by the spec. solved: whether the axis that
    is solved for is among them."""

    split: Split
    axes: tuple[str, ...]
    name: str = ""
    solved: bool = attrs.field(default=False, repr=False)


def mark(problem: Problem, seeds: dict[Value, list[Region]]) -> None:
    """Write each value's regions, from those of the inputs."""
    for value, regions in seeds.items():
        value.regions.update(regions)
        problem.lengths.update(r.split.units for r in regions if r.solved)
    for op in problem.ops:
        if KEY in op.node.meta:
            _map(op)
        if op.projection is None:
            continue
        for i, value in enumerate(op.operands):
            for region in sorted(value.regions, key=repr):
                for factor, outer, units, inner in covered(op, i, region.split):
                    _tag_results(op, factor, (outer, units, inner), region)


def _map(op: Op) -> None:
    """The projection of a mapped call. One that a spec names has to have it; a found one may fail."""
    try:
        op.projection = mapped_projection(op)
    except PlanError as error:
        statement = op.node.meta[KEY].statement
        if statement is not None:
            raise PlanError([_at(statement, problem) for problem in error.problems]) from error
        op.error = error


def _at(statement: Map, problem: Fault) -> Fault:
    """The problem at the line of the spec, where it has one."""
    return problem_at(statement.at, problem.what, problem.rule, problem.fix) if statement.at else problem


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


def allowed(problem: Problem, value: Value, s: Split) -> bool:
    """A split over the axis must leave the other axes' dims alone, and must deal at least one unit
    to every rank unless it deals out the very length that the spec splits. A value whose sizes only
    the data tell is not split."""
    if any(map(of_data, value.shape)):
        return False
    for region in value.regions:
        if region.axes and not region.solved and overlaps(problem, s, region.split):
            return False
    return problem.hint(s.units) >= problem.axis.size or s.units in problem.lengths


def candidates(problem: Problem) -> dict[Value, frozenset[Split]]:
    """The splits over the axis that each value may have."""
    images = Images(problem.axis.size)
    splits: dict[Value, set[Split]] = {v: set() for v in problem.values}
    parts: dict[Op, set] = {op: set() for op in problem.ops}
    makers = {v: op for op in problem.ops for v in op.results}
    due = {op for op in problem.ops if op.projection is not None}
    sweep = 0
    while due and sweep < 20:
        for op in problem.ops if sweep % 2 == 0 else reversed(problem.ops):
            if op in due:
                due.remove(op)
                for v in _close(problem, images, op, splits, parts[op]):
                    around = {u for u, _ in v.users} | ({makers[v]} if v in makers else set())
                    due |= {u for u in around if u.projection is not None}
        sweep += 1
    return {v: frozenset(splits[v]) for v in problem.values}


def _close(problem: Problem, images: Images, op: Op, splits, parts: set) -> list[Value]:
    """Extend the parts of an operator's factors that may be split, and their images. Gives the
    values that may be split in ways not known before."""
    fresh = sorted(_parts(images, op, splits) - parts, key=repr)
    grown = []
    for part in fresh:
        parts.add(part)
        for v, s in images.ends(op, part):
            if s not in splits[v] and allowed(problem, v, s):
                splits[v].add(s)
                grown.append(v)
    return grown


def _parts(images: Images, op: Op, splits) -> set:
    """Every (factor, outer, units, inner) that the splits of an operator's values lie within."""
    new = set(images.factors(op.projection))
    for i, v in enumerate((*op.operands, *op.results)):
        at = i if i < len(op.operands) else ~(i - len(op.operands))
        new |= {images.within(op.projection, at, s) for s in splits[v]}
    new.discard(None)
    return new


def parts_of(problem: Problem, op: Op, splits: Mapping[Value, frozenset[Split]]):
    """Every (factor, outer, units, inner) by which an operator may be split, in a fixed order."""
    if op.projection is None:
        return []
    images = Images(problem.axis.size)
    keep = []
    for part in sorted(_parts(images, op, splits), key=lambda t: (t[0], str(t[1:]))):
        if all(allowed(problem, v, s) for v, s in images.ends(op, part)):
            keep.append((part, *images.project(op.projection, part)))
    return keep


@attrs.frozen(eq=False)
class Images:
    """Between splits of tensors and parts of factors, each worked out once for all equal calls
    (which share one projection object)."""

    p: int
    _known: dict = attrs.Factory(dict)

    def _once(self, key, work):
        if key not in self._known:
            self._known[key] = work()
        return self._known[key]

    def factors(self, pr: Projection) -> tuple:
        """The factors that may be split, each as a part of its own."""
        return self._once(
            id(pr),
            lambda: tuple(
                (f, *_canonical(1, pr.sizes[f], 1, self.p))
                for f, kind in enumerate(pr.kinds)
                if kind != "whole" and pr.sizes[f] != 1
            ),
        )

    def within(self, pr: Projection, operand: int, s: Split):
        """The part that a split of an operand (or of result `~operand`) is; None where it crosses
        factors, or lies in one that must be whole."""

        def work():
            at = factor_of(pr, operand, s)
            return None if at is None or pr.kinds[at[0]] == "whole" else (at[0], *_canonical(*at[1:], self.p))

        return self._once((id(pr), operand, s), work)

    def project(self, pr: Projection, part):
        """The placements of operands and of results under a part."""
        return self._once((id(pr), part), lambda: project(pr, *part, self.p))

    def ends(self, op: Op, part):
        """Each value that is split under a part, with its split."""
        ins, outs = self.project(op.projection, part)
        return [(v, s) for v, s in zip((*op.operands, *op.results), (*ins, *outs)) if isinstance(s, Split)]


def _canonical(outer, units, inner, p):
    s = make_split(0, outer, units, inner, p)
    return s.outer, s.units, s.inner
