"""The factors of a module that a spec maps: the dim it runs over passes, all else is whole."""

from __future__ import annotations

from ..capture.regions import KEY
from ..errors import PlanError
from ..errors import Problem as Fault
from ..layout import Size, Split, as_size
from ..rules import Projection
from .problem import Op, Value


def mapped_projection(op: Op) -> Projection:
    """A mapped call in factors, from what its operands' dims descend from.

    A result has the dim where an operand of the same rank or size has it. Raises PlanError where
    no operand has the dim, or a result has no place for it.
    """
    said = op.node.meta[KEY]
    sizes: list[Size] = []
    names: list[str] = []

    def factor(size: Size, name: str) -> int:
        sizes.append(size)
        names.append(name)
        return len(sizes) - 1

    splits = {i: _of_name(v, said.over) for i, v in enumerate(op.operands)}
    found = {i: s for i, s in splits.items() if s is not None}
    if not found:
        raise PlanError(_no_operand(op, said))
    over = factor(next(iter(found.values())).units, said.over)

    def dims(v: Value, s: Split | None):
        out = []
        for d, size in enumerate(v.shape):
            if s is not None and d == s.dim:
                parts = [factor(s.outer, "")] if s.outer != 1 else []
                parts.append(over)
                parts += [factor(s.inner, "")] if s.inner != 1 else []
                out.append(tuple(parts))
            else:
                out.append(() if size == 1 else (factor(size, f"{v.name}.{d}"),))
        return tuple(out)

    operands = tuple(dims(v, splits[i]) for i, v in enumerate(op.operands))
    results = []
    for v in op.results:
        place = _place(v, [(op.operands[i], s) for i, s in found.items()])
        if place is None:
            raise PlanError(_no_result(op, said, v))
        results.append(dims(v, place))
    kinds = tuple("pass" if f == over else "whole" for f in range(len(sizes)))
    return Projection(
        operands=operands, results=tuple(results), sizes=tuple(sizes), kinds=kinds, names=tuple(names),
        saves=tuple(range(len(operands))), rule=f"map {said.path} over {said.over}",
    )  # fmt: skip


def _of_name(v: Value, name: str) -> Split | None:
    """The part of a value's dim that the spec calls `name`."""
    return next((r.split for r in sorted(v.regions, key=repr) if r.name == name), None)


def _place(v: Value, operands: list[tuple[Value, Split]]) -> Split | None:
    for other, s in operands:
        if s.dim < len(v.shape) and as_size(v.shape[s.dim]) == as_size(other.shape[s.dim]):
            return s
    return None


def _no_operand(op: Op, said) -> Fault:
    return Fault(
        what=f"module {said.path} is mapped over '{said.over}', and none of its inputs has that dim",
        rule="a mapped module takes at least one value whose dim descends from an input's dim of that name",
        fix="name a dim that the spec splits, or map a module nearer to the values that have it",
        where=op.source or said.path,
    )


def _no_result(op: Op, said, v: Value) -> Fault:
    return Fault(
        what=f"module {said.path} gives a value of shape {list(map(str, v.shape))}, which has no place for '{said.over}'",
        rule="every value that leaves a mapped module has the mapped dim where an input has it",
        fix="map a smaller module, whose results keep the dim",
        where=op.source or said.path,
    )
