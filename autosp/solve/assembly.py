"""From how every operator is sharded to how every value is, and to the reshards between: for a solver's choice and for
one made by hand alike."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

import attrs
import torch

from ..rules import project
from ..rules.strategies import narrowed
from ..sharding import INVARIANT, PARTIAL, REPLICATE, Kind, Mesh, Placement, Sharding, transition
from .problem import Op, Problem, Value
from .strategies import Strategy

Part = tuple  # (factor, outer, units, inner)


@attrs.frozen
class OpSharding:
    """How one operator runs. needs: a sharding per operand; gives: one per result; parts: by axis, the factor that it
    splits, as (factor, outer, units, inner), or None where the axis' ranks all run the whole of it. share: the part of the
    work that the busiest rank does."""

    needs: tuple[Sharding, ...]
    gives: tuple[Sharding, ...]
    parts: Mapping[str, Part | None]
    share: float = 1.0

    @property
    def split(self) -> bool:
        """Whether some axis splits a factor."""
        return any(part is not None for part in self.parts.values())

    @classmethod
    def alone(cls, axis: str, way: Strategy) -> OpSharding:
        """A solver's choice, which is of one axis."""
        needs, gives = ([Sharding.alone(axis, at) for at in places] for places in (way.needs, way.gives))
        return cls(tuple(needs), tuple(gives), {axis: way.part}, way.share)


@attrs.frozen
class Change:
    """One value brought from one sharding to another, for all users that need it so."""

    value: int
    src: Sharding
    dst: Sharding

    def on(self, axis: str) -> Move:
        """What it is on one axis."""
        return Move(self.value, self.src.on(axis), self.dst.on(axis))


@attrs.frozen
class Move:
    """One value brought from one placement of an axis to another."""

    value: int
    src: Placement
    dst: Placement


@attrs.frozen
class Assembled:
    """shardings: by value id. changes: every reshard, once per value and target, in order of first use; groups: those
    that travel together, in order."""

    shardings: Mapping[int, Sharding]
    changes: tuple[Change, ...]
    groups: tuple[tuple[Change, ...], ...]


def assembled(
    problem: Problem, mesh: Mesh, chosen: Mapping[Op, OpSharding], outputs: Iterable[Sharding | None]
) -> Assembled:
    """What follows of the operators' shardings, and of those that are required of the graph's outputs."""
    shardings = {v.id: Sharding.alike(mesh, entry_kind(v)) for v in problem.values if enters(v)}
    for op, s in chosen.items():
        shardings |= {v.id: at for v, at in zip(op.results, s.gives)}
    changes = tuple(_changes(problem, shardings, chosen, tuple(outputs)))
    return Assembled(shardings, changes, _groups(problem, changes, chosen))


def enters(v: Value) -> bool:
    """Whether a value enters the graph."""
    return v.node.op in ("placeholder", "get_attr")


def entry_kind(v: Value) -> Kind:
    """The kind that a value enters with: the gradients of parameters are parts, which the engine or the graph sums."""
    return INVARIANT if v.diff and not v.param else REPLICATE


def sharded_by_hand(op: Op, mesh: Mesh, parts: Mapping[str, int | None], kinds: Mapping[str, Kind]) -> OpSharding:
    """An operator whose factor `parts[axis]` each axis splits, or that the axis' ranks run whole, on values with a
    gradient of `kinds[axis]`: REPLICATE, INVARIANT, or PARTIAL (in all of the first set of operands it is linear in).

    A later axis splits what the earlier ones leave of a factor, which they have to divide.
    """
    projection, split_parts, needs, gives = op.projection, {}, [], []
    for axis in mesh:
        factor = parts.get(axis.name)
        if factor is None:
            split_parts[axis.name] = None
            ins, outs = _run_whole(op, kinds.get(axis.name, REPLICATE))
        else:
            split_parts[axis.name] = (factor, 1, projection.sizes[factor], 1)
            ins, outs = project(projection, *split_parts[axis.name], axis.size)
            projection = narrowed(projection, split_parts[axis.name], axis.size)
        needs.append([REPLICATE if at is None else at for at in ins])
        gives.append(list(outs))
    return OpSharding(_shardings(mesh, needs), _shardings(mesh, gives), split_parts)


def _run_whole(op: Op, kind: Kind) -> tuple[list[Kind], list[Kind]]:
    if kind is PARTIAL:
        linear = op.projection.linear[0]
        return [PARTIAL if i in linear else REPLICATE for i in range(len(op.operands))], [PARTIAL] * len(op.results)
    return tuple([kind if v.diff else REPLICATE for v in values] for values in (op.operands, op.results))


def _shardings(mesh: Mesh, by_axis: list[list[Placement]]) -> tuple[Sharding, ...]:
    names = [axis.name for axis in mesh]
    return tuple(Sharding(tuple(zip(names, places, strict=True))) for places in zip(*by_axis))


def output_values(problem: Problem, required: Iterable[Sharding | None]) -> Iterator[tuple[Value, Sharding]]:
    """The values that the graph returns, each with its required sharding."""
    for output, at in zip(problem.captured.outputs, required, strict=True):
        if at is not None:
            yield problem.output_value(output), at


def _changes(problem: Problem, shardings, chosen, outputs) -> Iterator[Change]:
    used = [(v, need) for op, s in chosen.items() for v, need in zip(op.operands, s.needs)]
    used += output_values(problem, outputs)
    yield from dict.fromkeys(Change(v.id, shardings[v.id], need) for v, need in used if shardings[v.id] != need)


def _groups(problem: Problem, changes: tuple[Change, ...], chosen) -> tuple[tuple[Change, ...], ...]:
    """Changes in order of first need; those of one axis with the same collective, dtype, differentiability and depth
    (the number of collectives before them) are one message: none waits for another."""
    depth = _depths(problem, changes, chosen)
    groups: dict[tuple, list[Change]] = {}
    for i, c in enumerate(changes):
        v, hops = problem.values[c.value], c.src.hops(c.dst)
        axis, src, dst = hops[0]
        row = transition(src, dst)
        alone = len(hops) > 1 or not row.together
        key = (i,) if alone else (axis, row.forward.kind, depth[c.value], _travels_as(v.dtype), v.diff, dst.word)
        groups.setdefault(key, []).append(c)
    return tuple(tuple(g) for g in groups.values())


def _travels_as(dtype: torch.dtype) -> torch.dtype:
    """Complex numbers travel as pairs of real ones."""
    return dtype.to_real() if dtype.is_complex else dtype


def _depths(problem: Problem, changes: tuple[Change, ...], chosen: Mapping[Op, OpSharding]) -> dict[int, int]:
    """Per value, how many communicating changes lie on the longest way to it."""
    moved = {(c.value, c.dst) for c in changes if _communicates(c)}
    depth = {v.id: 0 for v in problem.values}
    for op, s in chosen.items():
        reached = [depth[v.id] + ((v.id, need) in moved) for v, need in zip(op.operands, s.needs)]
        for r in op.results:
            depth[r.id] = max(reached, default=0)
    return depth


def _communicates(c: Change) -> bool:
    return any(transition(src, dst).forward.wire.communicates for _, src, dst in c.src.hops(c.dst))


__all__ = ["Assembled", "Change", "Move", "OpSharding", "assembled", "output_values", "sharded_by_hand"]
