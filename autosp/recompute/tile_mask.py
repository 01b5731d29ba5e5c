"""Masks of attention, a few queries at a time: queries x keys is never held whole.

A mask that depends on data (padding, packed documents), or was written out by hand, is computed from
values of one length: positions, document numbers, a row of padding. So an attention, and all that makes its
mask from them, is a region whose tokens are the queries, cut by the same rules as a loss. Each tile's
mask is made again in the backward. It waits for the tile before it (`autosp::after`), or a
compiler would make the masks of all tiles, and of all layers, side by side.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from torch import fx

from ..rules import argument, is_a, named
from ..sharding import Split
from .tile_region import TileRegion, Track, _enter, barrier
from .tile_values import COLLECTIVE, Values, ref

aten = torch.ops.aten

LIBRARY = torch.library.Library("autosp_tiles", "FRAGMENT")
LIBRARY.define("after(Tensor x, Tensor other) -> Tensor", tags=(torch.Tag.pt2_compliant_tag,))
LIBRARY.impl("after", lambda x, other: x.clone(), "CompositeExplicitAutograd")
AFTER = torch.ops.autosp_tiles.after.default


def mask_of(node: fx.Node) -> fx.Node | None:
    """The mask of an attention, if it is given one."""
    mask, *_ = named(node, "masked") if is_a(node, "masked") else (None,)
    return mask if isinstance(mask, fx.Node) else None


def masked(gm: fx.GraphModule) -> list[fx.Node]:
    """The attentions of a graph that have a mask."""
    return [n for n in gm.graph.nodes if mask_of(n) is not None]


def own_masks(gm: fx.GraphModule, values: Values, least: int) -> bool:
    """Gives every attention whose mask takes `least` bytes or more the calls that make it for itself alone;
    whether there was any."""
    changed = False
    for node in masked(gm):
        mask = mask_of(node)
        if values.bytes(ref(mask)) >= least:
            changed |= _copied(gm.graph, node, mask, list(_makers(values, node, mask)))
    if changed:
        gm.graph.eliminate_dead_code()
    return changed


def _makers(values: Values, node: fx.Node, mask: fx.Node) -> Iterator[fx.Node]:
    """The calls whose results are as large as queries times keys, and that the mask comes from, in order."""
    least = values.shape((node, 0))[-2], values.shape(ref(node.args[1]))[-2]
    square = values.number(least[0]) * values.number(least[1])
    makers, stack = set(), [mask]
    while stack:
        n = stack.pop()
        if n in makers or n.op != "call_function" or n.target in COLLECTIVE:
            continue
        if isinstance(n.meta.get("val"), torch.Tensor) and values.numel((n, 0)) >= square:
            makers.add(n)
            stack += n.all_input_nodes
    yield from sorted(makers, key=values.order.__getitem__)


def _copied(graph: fx.Graph, node: fx.Node, mask: fx.Node, makers: list[fx.Node]) -> bool:
    copies: dict[fx.Node, fx.Node] = {}
    with graph.inserting_before(node):
        for n in makers:
            copies[n] = _by_index(graph, n, copies) or graph.node_copy(n, lambda x: copies.get(x, x))
    if mask in copies:
        node.replace_input_with(mask, copies[mask])
    return mask in copies


def _by_index(graph: fx.Graph, n: fx.Node, copies: dict[fx.Node, fx.Node]) -> fx.Node | None:
    """A constant, or a triangle, as a call whose rule passes queries: one element expanded, or a choice by
    the indices of query and key; None for other calls."""
    val = n.meta["val"]

    def call(target, *args, **kwargs) -> fx.Node:
        made = graph.call_function(target, args, kwargs)
        made.meta.update({k: v for k, v in n.meta.items() if k in ("nn_module_stack", "stack_trace")})
        return made

    made = dict(dtype=val.dtype, device=val.device, pin_memory=False)
    value = _constant(n)
    if value is not None:
        size = list(argument(n, "size"))
        return call(aten.expand.default, call(aten.full.default, [1] * val.dim(), value, **made), size)
    if not is_a(n, "tril", "triu") or not all(isinstance(size, int) for size in val.shape[-2:]):
        return None
    made["dtype"] = torch.int64
    rows, columns = (call(aten.arange.default, size, **made) for size in val.shape[-2:])
    apart = call(aten.sub.Tensor, columns, call(aten.unsqueeze.default, rows, 1))
    inside = call(aten.le.Scalar if is_a(n, "tril") else aten.ge.Scalar, apart, argument(n, "diagonal", 0))
    x = copies.get(n.args[0], n.args[0])
    if val.dtype is torch.bool:
        return call(aten.logical_and.default, inside, x)
    return call(aten.where.ScalarOther, inside, x, 0)


def _constant(n: fx.Node) -> object | None:
    """The number that a call of sizes alone makes everywhere; None for other calls."""
    if argument(n, "self") is not None or not is_a(n, "ones", "zeros", "full"):
        return None
    value = argument(n, "fill_value") if is_a(n, "full") else int(is_a(n, "ones"))
    return None if isinstance(value, fx.Node) else value


def mask_region(values: Values, node: fx.Node) -> TileRegion:
    """An attention, and what makes its mask; the tokens are the queries."""
    result, mask = (node, 0), ref(mask_of(node))
    rows, shape = len(values.shape(result)) - 2, values.shape(mask)
    tokens = Track({result: Split(rows, 1, values.shape(result)[rows], 1)})
    wide = Track({mask: Split(len(shape) - 1, 1, shape[-1], 1)})
    region = TileRegion(values, node, ref(node.args[0]), wide, [tokens])
    pending = [node]
    while pending and not region.fault:
        n = pending.pop()
        if n in region.members:
            continue
        _enter(region, n)
        if not region.fault:
            pending += [r[0] for r in values.operands(n) if _is_mask(region, tokens, r)]
    region.fault = region.fault or tokens.fault
    return region


def _is_mask(region: TileRegion, tokens: Track, r) -> bool:
    whole = region.is_wide(r) and tokens.split(r) is not None
    return whole and r[0] not in region.members and not barrier(region.values, r[0])


def after(emit: Callable, piece: fx.Node, before: fx.Node) -> fx.Node:
    """A value, once `before` is there."""
    return emit(AFTER, (piece, emit(torch.ops.aten.detach.default, (before,), {})), {})
