"""Values and operators that cannot differ get one number, so that what is worked out for one holds
for all: a model of 32 equal layers costs the solver little more than one of a single layer."""

from __future__ import annotations

from collections.abc import Hashable, Mapping

import attrs

from ..capture.masks import CAUSAL, WINDOW
from ..sharding import Split
from .problem import Op, Problem, Value


@attrs.frozen(eq=False)
class Alike:
    """Numbers for kinds of values (by shape, gradient, regions and candidates) and of operators (by
    projection, mask and the kinds of their values)."""

    values: Mapping[int, int]
    ops: Mapping[int, int]

    def same(self, value: Value) -> int:
        return self.values[value.id]

    def call(self, op: Op) -> int:
        return self.ops[op.id]


def alike(problem: Problem, splits: Mapping[Value, frozenset[Split]]) -> Alike:
    """The kinds of a problem's values and operators."""
    numbers: dict[Hashable, int] = {}

    def number(key: Hashable) -> int:
        return numbers.setdefault(key, len(numbers))

    values = {v.id: number(_value_key(v, splits[v])) for v in problem.values}
    ops = {op.id: number(_op_key(op, values)) for op in problem.ops}
    return Alike(values, ops)


def _value_key(v: Value, splits: frozenset[Split]) -> Hashable:
    return "value", v.shape, v.dtype, v.diff, v.param, v.data_only, frozenset(v.regions), splits


def _op_key(op: Op, values: Mapping[int, int]) -> Hashable:
    """Calls bound alike share one projection object (see `problem.build`)."""
    tensors = tuple(values[v.id] for v in op.operands), tuple(values[v.id] for v in op.results)
    target = op.node.target if op.own is None else "own backward"  # equal bodies share a projection too
    masks = op.node.meta.get(CAUSAL), op.node.meta.get(WINDOW)  # tell equal attentions apart
    return "op", target, id(op.projection), *masks, *tensors
