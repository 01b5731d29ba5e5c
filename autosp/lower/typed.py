"""What a local value is, and what a call gives of operands that are known, by its operator's rule alone."""

from __future__ import annotations

from collections.abc import Mapping

import attrs
from torch import fx

from ..rules import Projection, factor_of, is_a, project
from ..rules.strategies import narrowed
from ..sharding import INVARIANT, PARTIAL, REPLICATE, Coordinate, Mesh, Sharding, Split
from ..solve import Plan
from ..solve.problem import Op
from .conversions import convert
from .match import known_reads


@attrs.frozen
class Typed:
    """What a local value is: a global value's id, its sharding, whether a gradient flows. Without a gradient, equal
    values on all ranks are of one kind: REPLICATE."""

    value: int
    sharding: Sharding
    diff: bool


def kind_of(at: Sharding, diff: bool) -> Sharding:
    """Equal values on all ranks are of two kinds only where a gradient tells them apart."""
    return at if diff else Sharding(tuple((axis, REPLICATE if p is INVARIANT else p) for axis, p in at.pairs))


def infer(plan: Plan, op: Op, operands: list[Typed | None]) -> tuple[Sharding, ...] | None:
    """What the call gives, by its rule alone, axis by axis: a later one sees what the earlier ones leave of the
    factors. An operand that it does not read may lie anywhere."""
    projection, columns = op.projection, []
    for axis in plan.mesh:
        places = [t and (t.sharding.on(axis.name), t.diff) for t in operands]
        inferred = _on_axis(op, projection, places, plan.chosen[op].parts[axis.name], axis.size)
        if inferred is None:
            return None
        gives, part = inferred
        if part is not None:
            projection = narrowed(projection, part, axis.size)
        columns.append([(axis.name, at) for at in gives])
    return tuple(Sharding(pairs) for pairs in zip(*columns))


def _on_axis(op: Op, projection: Projection | None, operands, chosen, p: int):
    """What the call gives on one axis, and the factor that it splits there. operands: (placement, diff) of each;
    chosen: the factor that the plan splits, which is believed where only results have it."""
    placements = [t[0] if t else None for t in operands]
    splits = [(i, s) for i, s in enumerate(placements) if isinstance(s, Split)]
    diff = [t[0] for t in operands if t and t[1]]
    if not splits and PARTIAL not in placements:
        if not diff or all(at is REPLICATE for at in diff):
            if chosen is not None:  # a factor that only the results have
                return _split_results(projection, chosen, placements, p)
            return tuple(REPLICATE for _ in op.results), None
        if all(at is INVARIANT for at in diff):
            return tuple(INVARIANT for _ in op.results), None
        return None
    if projection is None:
        return None
    if not splits:
        partial = {i for i, at in enumerate(placements) if at is PARTIAL}
        others = all(at in (REPLICATE, None) for at in placements if at is not PARTIAL)
        linear = others and partial in map(set, projection.linear)
        return (tuple(PARTIAL for _ in op.results), None) if linear else None
    part = factor_of(projection, *splits[0])
    return None if part is None else _split_results(projection, part, placements, p)


def _split_results(projection: Projection, part, placements, p: int):
    if projection.kinds[part[0]] == "whole":
        return None
    needs, gives = project(projection, *part, p)
    pairs = [(have, REPLICATE if need is None else need) for have, need in zip(placements, needs)]
    return (tuple(gives), part) if all(have in (None, need) for have, need in pairs) else None


def typed_inputs(node: fx.Node, types: Mapping) -> list[tuple[fx.Node, Typed]]:
    """The typed values that a local version reads, through the calls that it is made of."""
    # what gives a number is not looked behind: each is a call of its own
    known = known_reads(node, lambda n: isinstance(types.get(n), Typed), lambda n: not is_a(n, "item", "size"))
    return [(n, types[n]) for n in known]


def coordinates_of(mesh: Mesh, gm: fx.GraphModule) -> tuple[Coordinate, ...]:
    """Where the rank of a graph stands: as its changes of each axis say; the first where there is none."""
    changes = {n.args[3].axis: n.args[3] for n in reversed(gm.graph.find_nodes(op="call_function", target=convert))}
    return tuple(changes.get(axis.name, Coordinate(axis.name, axis.size, 0, "")) for axis in mesh)
