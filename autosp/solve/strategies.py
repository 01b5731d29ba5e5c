"""The ways to run one operator: which factor is split, or whole, and what that needs and gives."""

from __future__ import annotations

import attrs
import torch

from ..errors import PlanError
from ..errors import Problem as Fault
from ..sharding import INVARIANT, PARTIAL, REPLICATE, Placement, Split, make_split
from ..spec.joined import join
from ..syntax import parse_layout
from .candidates import covered, overlaps, parts_of
from .problem import Op, Problem, Value


@attrs.frozen
class Strategy:
    """needs: a placement per operand; gives: one per result. `part` is the factor split, with
    (outer, units, inner); None when run whole. `share` is the busiest rank's part of the work."""

    kind: str
    needs: tuple[Placement, ...]
    gives: tuple[Placement, ...]
    part: tuple | None = None
    share: float = 1.0


def strategies(problem: Problem, op: Op, splits, attention: str) -> tuple[Strategy, ...]:
    """Every admissible strategy of an operator, in a fixed order.

    Stays split (no replicated work): an operator on split differentiable values that can be split
    is split, unless it only moves data.
    """
    if (
        problem.axis.size == 1
    ):  # one kind for all, where it can be: which of free answers a solver gives differs between releases
        return _unique([s for s in _whole(op) if INVARIANT not in s.needs] or _whole(op))
    split = [_split(problem, op, *each) for each in parts_of(problem, op, splits)]
    if op.node.target is torch.ops.autosp.constrain.default:
        return _unique(_constrained(problem, op, split))
    split = _attention(problem, op, split, attention)
    stays_split = op.diff and op.tagged and not _param(op) and bool(split)
    if stays_split and not op.projection.movement:
        return _unique(_never_whole(op, split))
    return _unique([*split, *_whole(op), *([] if stays_split else _partial(op))])


def _constrained(problem: Problem, op: Op, split: list[Strategy]) -> list[Strategy]:
    """The layout that the user fixed here, and no other."""
    value, axis, p = op.results[0], problem.axis.name, problem.axis.size
    layout = join(parse_layout(op.node.args[1]), axis).expand(len(value.shape))
    dim = layout.dim_of(axis)
    if dim is None:
        return _whole(op)
    alone = len(layout.dims[dim].parts) == 1
    own = [r.split for r in value.regions if r.solved and r.split.dim == dim]
    fixed = [
        s for s in split
        if s.gives[0].dim == dim
        and (
            s.gives[0] == make_split(dim, 1, value.shape[dim], 1, p)
            if alone else any(overlaps(problem, s.gives[0], r) for r in own)
        )
    ]  # fmt: skip
    if not fixed:
        raise PlanError(_no_such_split(op, str(layout), dim, value.hint[dim], axis, p))
    return fixed


def _no_such_split(op: Op, layout: str, dim: int, size: int, axis: str, p: int) -> Fault:
    return Fault(
        what=f"the layout {layout} cannot be had: dim {dim} of size {size} is not split over {axis}={p} here",
        rule="a constraint splits a dim of at least as many units as the axis has ranks, which the spec gives to no other axis",
        fix=f"split another dim over {axis}, or leave {axis} out of the constraint",
        where=f"{op.source or op.node.name} (module {op.module or '<root>'})",
    )


def _never_whole(op: Op, ways: list[Strategy]) -> list[Strategy]:
    """A value that no one needs whole is not made whole: a split for which an operand of the split
    length would be gathered (a linear's output features) gives way to one for which none is. Where
    two lengths meet, as in attention, one is always needed whole."""
    ours = [_lengths(op, i) for i in range(len(op.operands))]
    if len(set().union(*ours)) != 1:
        return ways
    long = [i for i, v in enumerate(op.operands) if ours[i] and v.diff]
    return [s for s in ways if all(s.needs[i] is not REPLICATE for i in long)] or ways


def _param(op: Op) -> bool:
    return bool(op.operands) and all(v.param for v in op.operands)


def _split(problem: Problem, op: Op, part, ins, outs) -> Strategy:
    needs = tuple(s if s is not None else REPLICATE for s in ins)
    units, p = problem.hint(part[2]), problem.axis.size
    share = max(1.0 / p, -(-units // p) / units) if units else 1.0
    return Strategy("split", needs, tuple(outs), part, share)


def _whole(op: Op) -> list[Strategy]:
    """Whole on every rank: replicate to replicate, or invariant to invariant. The backward of any
    operator is linear in the gradient, so partial gradients stay partial, equal ones equal."""
    ways = []
    both = any(v.diff for v in op.operands) and not is_random(op)  # one rank's draw is taken: no work is equal
    kinds = (REPLICATE, INVARIANT) if both else (REPLICATE,)
    if op.own is not None and op.diff and op.projection.nonlinear:
        kinds = (INVARIANT,)  # its backward is not linear in the gradient
    for kind in kinds:
        ways.append(Strategy("whole", _kinds(op.operands, kind), _kinds(op.results, kind)))
    return ways


def is_random(op: Op) -> bool:
    """Whether the call draws random numbers: shards must draw differently, replicas alike."""
    return op.projection is not None and op.projection.random


def _kinds(values: tuple[Value, ...], kind) -> tuple[Placement, ...]:
    return tuple(kind if v.diff else REPLICATE for v in values)


def _partial(op: Op) -> list[Strategy]:
    """A call that is linear in some operands maps their partial sums to one of its result."""
    if op.projection is None:
        return []
    ways = []
    for group in filter(None, op.projection.linear):
        needs = tuple(PARTIAL if i in group else REPLICATE for i in range(len(op.operands)))
        ways.append(Strategy("partial", needs, tuple(PARTIAL for _ in op.results)))
    return ways


def contracts_length(op: Op) -> set[int]:
    """The query-length factors of an operator that contracts over a whole key length: factors of
    the split dim in the result, where another factor of the split dim is contracted."""
    pr = op.projection
    if pr is None or not op.diff:
        return set()
    ours = {f for i in range(len(op.operands)) for f in _lengths(op, i)}
    kept = {f for dims in pr.results for d in dims for f in d}
    contracted = {f for f in ours if f not in kept and sum(_has(d, f) for d in pr.operands) > 0}
    # a contraction joins two operands; a sum over one value's tokens is no attention
    contracted = {f for f in contracted if len([d for d in pr.operands if d]) > 1}
    return (ours & kept) if contracted else set()


def _lengths(op: Op, i: int) -> set[int]:
    """The factors of an operand that make up a length which the spec splits."""
    regions = [r for r in op.operands[i].regions if r.solved]
    return {f for r in regions for f, *_ in covered(op, i, r.split)}


def _has(dims, f: int) -> bool:
    return any(f in d for d in dims)


def _attention(problem, op: Op, ways: list[Strategy], attention: str) -> list[Strategy]:
    """`ulysses`: no length is split where another split exists, one that leaves scores (queries by
    keys) split; else the query length is. `gather`: the query length. `auto`: the objective decides."""
    if attention == "auto" or not ways:
        return ways
    lengths = contracts_length(op)
    if not lengths:
        return ways
    by_length = [s for s in ways if s.part[0] in lengths]
    if attention == "gather":
        return by_length or ways
    ours = [_lengths(op, i) for i in range(len(op.operands))]
    scores = [i for i, v in enumerate(op.operands) if v.diff and len(ours[i]) > 1]
    heads = [
        s for s in ways
        if s.part[0] not in set().union(*ours)
        and problem.hint(s.part[2]) >= problem.axis.size
        and all(isinstance(s.needs[i], Split) for i in scores)
    ]  # fmt: skip
    return heads or by_length or ways


def _unique(ways: list[Strategy]) -> tuple[Strategy, ...]:
    seen: dict = {}
    for s in ways:
        seen.setdefault((s.needs, s.gives), s)
    return tuple(seen.values())


__all__ = ["Split", "Strategy", "contracts_length", "strategies"]
