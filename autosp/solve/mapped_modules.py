"""The factors of a module that a spec maps: the dim it runs over passes, all else is whole."""

from __future__ import annotations

import attrs
import sympy

from ..capture.regions import KEY, Mapped
from ..errors import PlanError
from ..errors import Problem as Fault
from ..rules import Projection, is_call
from ..sharding import Size, Split
from .problem import Op, Value


def mapped_projection(op: Op) -> Projection:
    """A mapped call in factors, from what its operands' dims descend from.

    A result has the dim where an operand has it, at the same place and of the same symbolic size. Raises PlanError
    where no operand has the dim, where its size is no symbol, or where a result has no place for it.
    """
    mapped = op.node.meta[KEY] = _named(op)
    sizes: list[Size] = []
    names: list[str] = []

    def factor(size: Size, name: str) -> int:
        sizes.append(size)
        names.append(name)
        return len(sizes) - 1

    splits = {i: _of_name(v, mapped.over) for i, v in enumerate(op.operands)}
    carrying = {i: s for i, s in splits.items() if s is not None}
    if not carrying:
        raise PlanError(_no_operand(op, mapped))
    if not isinstance(mapped.length, sympy.Symbol):
        raise PlanError(_fixed_length(op, mapped))
    over = factor(next(iter(carrying.values())).units, mapped.over)

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
    shapes = [shape for shape in mapped.operands if isinstance(shape, tuple)]
    results = []
    for v, shape in zip(op.results, mapped.results, strict=False):  # numbers among the results come last
        place = next((s for i, s in carrying.items() if _has_it(shape, shapes[i], s)), None)
        if place is None:
            raise PlanError(_no_result(op, mapped, v))
        results.append(dims(v, place))
    kinds = tuple("pass" if f == over else "whole" for f in range(len(sizes)))
    return Projection(
        operands=operands, results=tuple(results), sizes=tuple(sizes), kinds=kinds, names=tuple(names),
        saves=tuple(range(len(operands))), rule=f"map {mapped.path} over {mapped.over}",
        random=any(is_call(n, "random") for n in mapped.body.graph.nodes),
    )  # fmt: skip


def _named(op: Op) -> Mapped:
    """The call with the name of its dim: the one that is split, where none is stated."""
    mapped = op.node.meta[KEY]
    if mapped.over is not None:
        return mapped
    names = {r.name for v in op.operands for r in v.regions if r.solved and r.name}
    if len(names) != 1:
        raise PlanError(_names(op, mapped, names))
    return attrs.evolve(mapped, over=names.pop())


def _of_name(v: Value, name: str) -> Split | None:
    """The part of a value's dim that the spec calls `name`."""
    return next((r.split for r in sorted(v.regions, key=repr) if r.name == name), None)


def _has_it(shape: tuple[Size, ...], operand: tuple[Size, ...], s: Split) -> bool:
    """Whether a result has the mapped dim where an operand has it."""
    return s.dim < len(shape) and shape[s.dim] == operand[s.dim]


def _no_operand(op: Op, mapped) -> Fault:
    return Fault(
        what=f"module {mapped.path} is mapped over '{mapped.over}', and none of its inputs has that dim",
        rule="a mapped module takes at least one value whose dim descends from an input's dim of that name",
        fix="name a dim that the spec splits, or map a module nearer to the values that have it",
        where=op.source or mapped.path,
    )


def _no_result(op: Op, mapped, v: Value) -> Fault:
    return Fault(
        what=f"module {mapped.path} gives a value of shape {list(v.hint)}, which has no place for '{mapped.over}'",
        rule="every value that leaves a mapped module has the mapped dim where an input has it",
        fix="map a smaller module, whose results keep the dim",
        where=op.source or mapped.path,
    )


def _names(op: Op, mapped: Mapped, names: set[str]) -> Fault:
    have = f"have the dims {' and '.join(map(repr, sorted(names)))}" if names else "have no dim that the spec splits"
    return Fault(
        what=f"the inputs of module {mapped.path} {have}",
        rule="a module runs per shard along one dim that the spec names and splits",
        fix=f"say which, 'map {mapped.path} over DIM'" if names else "name the dim in the layouts of the spec's inputs",
        where=op.source or mapped.path,
    )


def _fixed_length(op: Op, mapped: Mapped) -> Fault:
    return Fault(
        what=f"module {mapped.path} is mapped over '{mapped.over}', whose length the traced graph holds as a number",
        rule="a mapped module runs with the length that a rank holds, so the graph must hold the length as a symbol",
        fix="autosp.compile marks the inputs that the spec names; give the dim its name in every input's layout, "
        "or torch._dynamo.maybe_mark_dynamic(tensor, dim) where autosp.backend is used",
        where=f"{op.source or op.node.name} (module {mapped.path})",
    )
