"""What a local value is, and what a call gives of operands that are known, by its operator's rule alone."""

from __future__ import annotations

from collections.abc import Mapping

import attrs
from torch import fx

from ..capture.assertions import READS
from ..layout import INVARIANT, PARTIAL, REPLICATE, Placement, Split
from ..rules import factor_of, project
from ..solve import Plan
from ..solve.problem import SHAPE_READS, Op

NUMBERS = {*READS, *SHAPE_READS}  # what gives a number is not looked behind: each is a call of its own


@attrs.frozen
class Typed:
    """What a local value is: a global value's id, its placement, whether a gradient flows. Without a gradient, equal
    values on all ranks are of one kind: REPLICATE."""

    value: int
    placement: Placement
    diff: bool


def kind_of(at: Placement, diff: bool) -> Placement:
    """Equal values on all ranks are of two kinds only where a gradient tells them apart."""
    return REPLICATE if at is INVARIANT and not diff else at


def infer(plan: Plan, op: Op, operands: list[Typed | None]) -> tuple[Placement, ...] | None:
    """What the call gives, by its rule alone. An operand that it does not read may lie anywhere."""
    placements = [t.placement if t else None for t in operands]
    splits = [(i, s) for i, s in enumerate(placements) if isinstance(s, Split)]
    diff = [p for p, t in zip(placements, operands) if t and t.diff]
    if not splits and PARTIAL not in placements:
        if not diff or all(p is REPLICATE for p in diff):
            given = plan.chosen[op]
            if given.part is not None:  # a factor that only the results have
                return _split_results(op, given.part, placements, plan.p)
            return tuple(REPLICATE for _ in op.results)
        if all(p is INVARIANT for p in diff):
            return tuple(INVARIANT for _ in op.results)
        return None
    if op.projection is None:
        return None
    if not splits:
        partial = {i for i, p in enumerate(placements) if p is PARTIAL}
        others = all(p in (REPLICATE, None) for p in placements if p is not PARTIAL)
        return tuple(PARTIAL for _ in op.results) if others and partial in map(set, op.projection.linear) else None
    part = factor_of(op.projection, *splits[0])
    return None if part is None else _split_results(op, part, placements, plan.p)


def _split_results(op: Op, part, placements, p: int) -> tuple[Placement, ...] | None:
    pr = op.projection
    if pr.kinds[part[0]] == "whole":
        return None
    needs, gives = project(pr, *part, p)
    pairs = [(have, REPLICATE if need is None else need) for have, need in zip(placements, needs)]
    return tuple(gives) if all(have in (None, need) for have, need in pairs) else None


def _flat(node: fx.Node) -> list[fx.Node]:
    found: list[fx.Node] = []
    fx.map_arg((node.args, node.kwargs), found.append)
    return found


def typed_inputs(node: fx.Node, types: Mapping) -> list[tuple[fx.Node, Typed]]:
    """The typed values that a local version reads, through the calls that it is made of."""
    found, stack, seen = [], list(reversed(_flat(node))), set()
    while stack:
        n = stack.pop()
        if isinstance(types.get(n), Typed):
            found.append((n, types[n]))
        elif n not in seen and n.op == "call_function" and n.target not in NUMBERS:
            seen.add(n)
            stack += reversed(_flat(n))
    return found
