"""Masks that are only causal, or a causal window: found by what the graph computes, not by who wrote it.

transformers builds a bool mask of batch × 1 × s × s from aranges, comparisons and a test for packed documents;
at 131,072 tokens that is 16 GiB. Here every element of such a value is written as a function of its indices: a sum
`c + Σ coefficient · index`, or a conjunction of such sums that are at least 0. What depends on data is unknown.
An attention whose mask comes out as `query - key >= 0` alone is marked, and lowering asks for `is_causal` instead;
one that also says `query - key < w` is marked with its window, and runs as a band (`lower/windows.py`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import attrs
import torch
from torch import fx

from ..compat.torch import statically_known_true
from ..rules import argument, is_a, named, traits, with_arguments
from ..sharding import Placement, Sharding

CAUSAL = "autosp_causal"  # in the meta of an attention whose mask is causal and nothing else
WINDOW = "autosp_window"  # and of one that sees so many keys, up to its own
BLOCKS = 32  # that a window's queries are cut into at most, which bounds the size of the graph


@attrs.frozen
class Sum:
    """A whole number: `constant` plus, for each dim, its coefficient times the index."""

    constant: int
    of: tuple[int, ...]

    def __add__(self, other: Sum) -> Sum:
        return Sum(self.constant + other.constant, tuple(a + b for a, b in zip(self.of, other.of, strict=True)))

    def times(self, factor: int) -> Sum:
        return Sum(self.constant * factor, tuple(a * factor for a in self.of))

    def __sub__(self, other: Sum) -> Sum:
        return self + other.times(-1)

    @property
    def is_constant(self) -> bool:
        return not any(self.of)


@attrs.frozen
class All:
    """True where every one of these sums is at least 0. `never` is false everywhere."""

    sums: frozenset[Sum]
    dims: int
    never: bool = False


Known = Sum | All


def mark_attentions(gm: fx.GraphModule) -> int:
    """Marks every attention whose mask says `key <= query` and nothing else, or that and `key > query - w`;
    gives their number."""
    known: dict[fx.Node, Known | None] = {}
    marked = 0
    for node in gm.graph.nodes:
        mask = named(node, "masked")[0] if is_a(node, "masked") else None
        if not isinstance(mask, fx.Node):
            continue
        binding = _binding(_known(mask, known), mask, node)
        window = next((w for w in binding or () if w != _CAUSAL), None)
        if binding == {_CAUSAL}:
            node.meta[CAUSAL] = True
        elif binding == {_CAUSAL, window}:
            node.meta[WINDOW] = window[0] + 1
        marked += bool(binding) and (CAUSAL in node.meta or WINDOW in node.meta)
    return marked


_CAUSAL = (0, 1, -1)  # constant, and the coefficients of query and key


def _binding(found: Known | None, mask: fx.Node, node: fx.Node) -> set[tuple[int, int, int]] | None:
    """What a mask demands, as sums over query and key that are at least 0; None where it is not known, or is
    anything but a causal mask with or without a window."""
    q, k, _ = (a.meta["val"] for a in named(node, "attention"))
    if not isinstance(found, All) or found.never or not statically_known_true(q.shape[-2] == k.shape[-2]):
        return None
    shape = mask.meta["val"].shape
    binding = {s for s in found.sums if not _always(s, shape)}  # a window as long as the sequence binds nothing
    binding -= {s for s in binding for o in binding if s.of == o.of and s.constant > o.constant}
    if any(any(s.of[:-2]) for s in binding):
        return None
    bounds = {(s.constant, *s.of[-2:]) for s in binding}
    rest = bounds - {_CAUSAL}
    windows = all((query, key) == (-1, 1) and constant >= 0 for constant, query, key in rest)
    return bounds if _CAUSAL in bounds and len(rest) <= 1 and windows else None


def _always(s: Sum, shape: Sequence) -> bool:
    """Whether a sum is at least 0 at every index of the shape."""
    if not all(isinstance(size, int) for size in shape):
        return False
    return s.constant + sum(min(0, a * (size - 1)) for a, size in zip(s.of, shape, strict=True)) >= 0


def drops_mask(node: fx.Node, query: Placement | Sharding | None) -> bool:
    """Whether a rank's call of a node asks for `is_causal` instead of a mask: where it has all queries.

    query: the placement of its first operand.
    """
    return bool(node.meta.get(CAUSAL)) and has_all_queries(node, query)


def window_of(node: fx.Node, query: Placement | Sharding | None) -> int | None:
    """The keys that a query of a rank's call sees, its own the last, where the rank has all queries; else None."""
    return node.meta.get(WINDOW) if has_all_queries(node, query) else None


def has_all_queries(node: fx.Node, query: Placement | Sharding | None) -> bool:
    """Whether a rank's call of an attention has every query; `query` is the placement of its first operand."""
    return query is None or named(node, "attention")[0].meta["val"].dim() - 2 not in query.dims


def block_of(window: int, length: int) -> int:
    """How many queries of a window run together (`lower/windows.py`)."""
    return max(window, -(-length // BLOCKS))


def without_mask(target: Any, args: tuple, kwargs: dict) -> tuple[tuple, dict]:
    """The arguments of a marked attention that asks for `is_causal` instead of its mask."""
    mask, causal = traits(target).names("masked")
    return with_arguments(target, args, kwargs, **{mask: None, causal: True})


def known_of(node: fx.Node) -> Known | None:
    """What is known of a node's elements, as a function of their indices; every node has its fake value."""
    return _known(node, {})


def _known(node: fx.Node, known: dict) -> Known | None:
    """What is known of a node's elements; nodes are visited without recursion, as chains may be long."""
    pending = [node]
    while pending:
        top = pending[-1]
        waiting = [n for n in top.all_input_nodes if n not in known]
        if top in known or not waiting:
            pending.pop()
            known.setdefault(top, _evaluate(top, known))
        else:
            pending += waiting
    return known[node]


def _evaluate(node: fx.Node, known: dict) -> Known | None:
    kinds = traits(node.target).kinds if node.op == "call_function" else ()
    rule = next((RULES[word] for word in kinds if word in RULES), None)
    val = node.meta.get("val")
    if rule is None or not isinstance(val, torch.Tensor):
        return None
    try:
        return _at_zero(rule(node, lambda n: _of(n, known, val.dim())), val.shape)
    except _Unknown:
        return None


def _at_zero(found: Known, shape: Sequence) -> Known:
    """A dim of size 1 has the index 0 alone."""
    alone = [statically_known_true(size == 1) for size in shape]

    def cut(s: Sum) -> Sum:
        return Sum(s.constant, tuple(0 if one else a for a, one in zip(s.of, alone, strict=True)))

    return _over(found, cut, len(alone))


class _Unknown(Exception):
    """Nothing is known of an operand, or a rule does not speak of the call."""


def _of(x: object, known: dict, dims: int) -> Known:
    """An operand, as a number or a known tensor, broadcast to so many dims."""
    if isinstance(x, (bool, int)):
        return Sum(int(x), (0,) * dims)
    found = known.get(x) if isinstance(x, fx.Node) else None
    if found is None:
        raise _Unknown
    if isinstance(found, Sum):
        return Sum(found.constant, _lead(found.of, dims))
    return All(frozenset(Sum(s.constant, _lead(s.of, dims)) for s in found.sums), dims, found.never)


def _lead(of: tuple[int, ...], dims: int) -> tuple[int, ...]:
    return (0,) * (dims - len(of)) + of


def _own(x: fx.Node, get: Callable) -> Known:
    """An operand with its own dims, not broadcast."""
    dims = x.meta["val"].dim()
    return _over(get(x), lambda s: Sum(s.constant, s.of[len(s.of) - dims :]), dims)


def _over(value: Known, change: Callable[[Sum], Sum], dims: int) -> Known:
    return change(value) if isinstance(value, Sum) else All(frozenset(map(change, value.sums)), dims, value.never)


def _same(node: fx.Node, get: Callable) -> Known:
    return get(node.args[0])


def _cast(node: fx.Node, get: Callable) -> Known:
    value, dtype = get(node.args[0]), node.meta["val"].dtype
    if isinstance(value, All) and dtype is not torch.bool:
        raise _Unknown
    if isinstance(value, Sum) and (dtype.is_floating_point or dtype is torch.bool):
        raise _Unknown
    return value


def _arange(node: fx.Node, get: Callable) -> Known:
    start, step = argument(node, "start", 0), argument(node, "step", 1)
    if not isinstance(start, int) or not isinstance(step, int) or node.meta["val"].dtype.is_floating_point:
        raise _Unknown
    return Sum(start, (step,))


def _filled(value: object, node: fx.Node) -> Known:
    val = node.meta["val"]
    if val.dtype is torch.bool:
        return All(frozenset(), val.dim(), never=not value)
    if val.dtype.is_floating_point or not isinstance(value, int):
        raise _Unknown
    return Sum(value, (0,) * val.dim())


def _added(node: fx.Node, get: Callable) -> Known:
    a, b = get(node.args[0]), get(node.args[1])
    alpha = argument(node, "alpha")
    if not (isinstance(a, Sum) and isinstance(b, Sum) and isinstance(alpha, int)):
        raise _Unknown
    return a + b.times(alpha if is_a(node, "add") else -alpha)


def _unsqueezed(node: fx.Node, get: Callable) -> Known:
    dims = node.meta["val"].dim()
    at = node.args[1] % dims
    return _over(_own(node.args[0], get), lambda s: Sum(s.constant, (*s.of[:at], 0, *s.of[at:])), dims)


def _sliced(node: fx.Node, get: Callable) -> Known:
    dim, start, _, step = (*node.args[1:], *(0, None, None, 1)[len(node.args) - 1 :])
    start = 0 if start is None else start
    if not isinstance(start, int) or start < 0 or not isinstance(step, int):
        raise _Unknown
    at = dim % node.meta["val"].dim()

    def cut(s: Sum) -> Sum:
        return Sum(s.constant + s.of[at] * start, (*s.of[:at], s.of[at] * step, *s.of[at + 1 :]))

    return _over(get(node.args[0]), cut, node.meta["val"].dim())


def _differences(node: fx.Node, get: Callable) -> Known:
    """`diff` along a dim, with one element before the first: constant where the first step is as the others."""
    x, n, dim, before = (*node.args, *(None, 1, -1, None)[len(node.args) :])[:4]
    own, given = _own(x, get), get(before) if isinstance(before, fx.Node) else None
    at = dim % len(own.of) if isinstance(own, Sum) else 0
    if n != 1 or not isinstance(own, Sum) or not isinstance(given, Sum) or before.meta["val"].shape[at] != 1:
        raise _Unknown
    first = Sum(own.constant, (*own.of[:at], 0, *own.of[at + 1 :])) - given
    if not first.is_constant or first.constant != own.of[at]:
        raise _Unknown
    return Sum(own.of[at], (0,) * len(own.of))


def _running(node: fx.Node, get: Callable) -> Known:
    """A running sum of nothing."""
    value = get(node.args[0])
    nothing = value.never if isinstance(value, All) else value == Sum(0, value.of) and value.is_constant
    if not nothing:
        raise _Unknown
    return Sum(0, (0,) * node.meta["val"].dim())


def _picked(node: fx.Node, get: Callable) -> Known:
    """`x[i, j]` with a whole index for every dim: each index of `x` becomes what is looked up."""
    x, indices = node.args[0], node.args[1]
    value, dims = _own(x, get), node.meta["val"].dim()
    if not isinstance(value, Sum) or len(indices) != len(value.of) or any(i is None for i in indices):
        raise _Unknown
    found = Sum(value.constant, (0,) * dims)
    for coefficient, index in zip(value.of, indices, strict=True):
        if coefficient:
            at = get(index)
            if not isinstance(at, Sum):
                raise _Unknown
            found = found + at.times(coefficient)
    return found


def _compared(least: Callable[[Sum, Sum], Sequence[Sum]]) -> Callable:
    def rule(node: fx.Node, get: Callable) -> Known:
        a, b = get(node.args[0]), get(node.args[1])
        if not (isinstance(a, Sum) and isinstance(b, Sum)):
            raise _Unknown
        return _conjunction(least(a, b), node.meta["val"].dim())

    return rule


def _unequal(node: fx.Node, get: Callable) -> Known:
    a, b = get(node.args[0]), get(node.args[1])
    if not (isinstance(a, Sum) and isinstance(b, Sum) and (a - b).is_constant):
        raise _Unknown
    return All(frozenset(), node.meta["val"].dim(), never=(a - b).constant == 0)


def _conjunction(sums: Sequence[Sum], dims: int) -> All:
    held = frozenset(s for s in sums if not s.is_constant)
    return All(held, dims, never=any(s.is_constant and s.constant < 0 for s in sums))


def _both(node: fx.Node, get: Callable) -> Known:
    a, b = get(node.args[0]), get(node.args[1])
    if not (isinstance(a, All) and isinstance(b, All)):
        raise _Unknown
    return All(a.sums | b.sums, node.meta["val"].dim(), a.never or b.never)


def _one(dims: int) -> Sum:
    return Sum(1, (0,) * dims)


_LE = _compared(lambda a, b: [b - a])
_LT = _compared(lambda a, b: [b - a - _one(len(a.of))])
_GE = _compared(lambda a, b: [a - b])
_GT = _compared(lambda a, b: [a - b - _one(len(a.of))])
_EQ = _compared(lambda a, b: [a - b, b - a])

RULES: dict[str, Callable] = {  # by the kind of operator that its rule says it is
    "arange": _arange,
    "ones": lambda node, get: _filled(1, node),
    "zeros": lambda node, get: _filled(0, node),
    "full": lambda node, get: _filled(argument(node, "fill_value"), node),
    "add": _added,
    "sub": _added,
    "unsqueeze": _unsqueezed,
    "slice": _sliced,
    "diff": _differences,
    "cumsum": _running,
    "index": _picked,
    "and": _both,
    "expand": _same,
    "alias": _same,
    "clone": _same,
    "cast": _cast,
    "le": _LE,
    "lt": _LT,
    "ge": _GE,
    "gt": _GT,
    "eq": _EQ,
    "ne": _unequal,
}
