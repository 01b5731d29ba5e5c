"""A checker of windowed attentions that run block by block: every query sees its window, and nothing else changed.

Inferred: which queries a block has and which keys and values it reads (from the lengths of the cuts), and what its mask
lets through, as a function of the indices (`capture/masks.py`). Taken on trust: `node.meta["autosp_block"]`, which
attention a block is of and its place; that a mask which capture marked as a window is one.
"""

from __future__ import annotations

import operator
from collections.abc import Sequence
from itertools import pairwise

import attrs
import torch
from torch import fx

from ..capture import place_in
from ..capture.masks import All, Sum, known_of
from ..compat.torch import FakeTensorMode
from ..errors import CheckError, Problem
from ..rules import arguments, is_call, named, traits
from .windows import BAND, BLOCK

aten = torch.ops.aten
RULE = "a query sees the keys of its window, its own the last"
FIX = (
    "this is a fault of autosp: switch the pass off with AUTOSP_SKIP=window_attention, "
    "and report it with AUTOSP_DUMP's files"
)


class _WrongBand(Exception):
    """What is wrong with a block."""


@attrs.frozen
class _Rows:
    """The rows `first` to `last` of a value."""

    of: str
    first: int
    last: int


def check_bands(before: fx.GraphModule, after: fx.GraphModule) -> None:
    """Raises CheckError with every fault. before: the graph whose windowed attentions were rewritten in `after`, nodes
    that stayed having their names."""
    old = {n.name: n for n in before.graph.nodes}
    replaced = {n.name for n in old.values() if n.meta.get(BAND) is not None} - {n.name for n in after.graph.nodes}
    joined = {n.meta[BLOCK]: n for n in after.graph.nodes if n.target is aten.cat.default and BLOCK in n.meta}
    faults = [
        _fault(old[name], "it is gone, and no blocks are in its place") for name in sorted(replaced - set(joined))
    ]
    for name, cat in joined.items():
        try:
            _checked(old[name], cat)
        except _WrongBand as wrong:
            faults.append(_fault(old[name], str(wrong)))
    names = {n.name: n for n in after.graph.nodes}
    for node in old.values():
        new = names.get(node.name)
        if node.name not in replaced and (new is not None or node.op == "output" or _kept(node, before)):
            if new is None or not _same(node, new, joined):
                faults.append(_fault(node, "it is called otherwise than before"))
    if faults:
        raise CheckError(faults[:10])


def _kept(node: fx.Node, before: fx.GraphModule) -> bool:
    """Whether a node has to be there still: all but what only the replaced masks are made of."""
    pending, seen = [node], set()
    while pending:
        n = pending.pop()
        if n.op == "output" or n.target is aten.copy_.default:
            return True
        users = (u for u in n.users if not (u.meta.get(BAND) is not None and n not in u.args[:3]))
        pending += [u for u in users if u not in seen]
        seen.update(users)
    return False


def _same(node: fx.Node, new: fx.Node, joined: dict[str, fx.Node]) -> bool:
    """Whether a node stayed as it is; what read an attention reads its blocks' results."""
    blocks = {cat.name: name for name, cat in joined.items()}
    named = fx.map_arg((new.args, new.kwargs), lambda n: blocks.get(n.name, n.name))
    return node.target == new.target and str(named) == str(fx.map_arg((node.args, node.kwargs), lambda n: n.name))


def _checked(node: fx.Node, cat: fx.Node) -> None:
    window, length = node.meta[BAND].window, node.meta[BAND].length
    if cat.args[1] != -2:
        raise _WrongBand("its blocks are not joined along the queries")
    query, key, value = (n.name for n in named(node, "attention"))
    at = 0
    for block in cat.args[0]:
        if block.target is not node.target or _rest(block) != _rest(node) or is_call(block, "random"):
            raise _WrongBand("a block is not such an attention")
        mask, causal = named(block, "masked")
        if causal is not False:
            raise _WrongBand("a block is not such an attention")
        q, k, v = (_rows(x) for x in named(block, "attention"))
        before = at - k.first
        if q.of != query or q.first != at or (k.of, v.of) != (key, value) or (k.first, k.last) != (v.first, v.last):
            raise _WrongBand(
                f"a block reads queries {q.first} to {q.last}, keys {k.first} to {k.last}, values {v.first} to {v.last}"
            )
        if k.last != q.last or (before < window - 1 and k.first > 0):
            raise _WrongBand(
                f"queries {q.first} to {q.last} have the keys {k.first} to {k.last}, of a window of {window}"
            )
        if _mask(mask) != _window(before, window, q.last - q.first, k.last - k.first):
            raise _WrongBand(f"the mask of queries {q.first} to {q.last} is another than a window of {window}")
        at = q.last
    if at != length:
        raise _WrongBand(f"its blocks have {at} of {length} queries")


def _rest(node: fx.Node) -> dict:
    """The arguments of an attention beside its operands and its mask."""
    own = {name for word in ("attention", "masked") for name in traits(node.target).names(word)}
    return {k: v for k, v in arguments(node.target, node.args, node.kwargs).items() if k not in own}


def _window(before: int, window: int, queries: int, keys: int) -> All:
    """What a block's mask is to let through: `0 <= query + before - key < window`. An index of one alone is no variable."""
    i, j = int(queries > 1), int(keys > 1)
    sums = Sum(before, (i, -j)), Sum(window - 1 - before, (-i, j))
    inequalities = frozenset(s for s in sums if not s.is_constant)
    return All(inequalities, 2, never=any(s.is_constant and s.constant < 0 for s in sums))


def _rows(x: fx.Node) -> _Rows:
    """Which rows of which value a piece has."""
    if x.target is operator.getitem and x.args[0].target is aten.split_with_sizes.default:
        source, sizes, dim = x.args[0].args
        if dim == -2:
            return _Rows(source.name, sum(sizes[: x.args[1]]), sum(sizes[: x.args[1] + 1]))
    if x.target is aten.slice.Tensor and x.args[1] == -2:
        rows = _rows(x.args[0])
        if 0 <= x.args[2] <= x.args[3] <= rows.last - rows.first:
            return _Rows(rows.of, rows.first + x.args[2], rows.first + x.args[3])
    if x.target is aten.cat.default and x.args[1] == -2:
        return _joined([_rows(part) for part in x.args[0]])
    raise _WrongBand(f"{x} is not a stretch of rows")


def _joined(parts: Sequence[_Rows]) -> _Rows:
    for a, b in pairwise(parts):
        if a.of != b.of or a.last != b.first:
            raise _WrongBand(f"rows {a.first} to {a.last} are followed by {b.first} to {b.last}")
    return _Rows(parts[0].of, parts[0].first, parts[-1].last)


def _mask(node: fx.Node) -> All | Sum | None:
    """What a mask lets through, from the calls that make it."""
    order, stack = {}, [node]
    while stack:
        n = stack.pop()
        order.pop(n, None)
        order[n] = None
        stack += n.all_input_nodes
    with FakeTensorMode():
        for n in reversed(order):
            if n.op != "call_function":
                return None
            args, kwargs = fx.map_arg((n.args, n.kwargs), lambda x: x.meta["val"])
            n.meta["val"] = n.target(*args, **kwargs)
    known = known_of(node)
    for n in order:
        n.meta.pop("val")
    return known


def _fault(node: fx.Node, what: str) -> Problem:
    return Problem(
        what=f"{node.target} runs over a window in blocks: {what}", rule=RULE, fix=FIX, where=place_in("local", node)
    )
