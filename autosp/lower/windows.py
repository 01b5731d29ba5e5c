"""Attention over a causal window, block by block: a query sees the w keys that end with its own.

Queries are cut into blocks of at least w; a block needs its own keys and the last w - 1 of the block
before, so its mask is a block by a block and a window. The s by s mask is never made, and the work
is O(s * (block + w)) instead of O(s^2). The same softmax over the same keys: exact.
"""

from __future__ import annotations

import operator

import attrs
import torch
from torch import fx

from ..capture.masks import block_of
from ..rules import is_call, named, traits, with_arguments

aten = torch.ops.aten
BAND = "autosp_band"  # in the meta of a local attention that may run as a band
BLOCK = "autosp_block"  # in that of what joins its blocks: its name


@attrs.frozen
class Band:
    """A causal window of so many keys over a sequence of so many queries and keys."""

    window: int
    length: int
    device: torch.device

    @property
    def blocks(self) -> list[int]:
        """The lengths of the blocks."""
        each = block_of(self.window, self.length)
        rest = self.length % each
        return [each] * (self.length // each) + ([rest] if rest else [])


def band(gm: fx.GraphModule) -> int:
    """Rewrites the windowed attentions of a local graph; gives their number.

    Those with dropout keep their mask, as do symbolic lengths and windows of more than half the
    sequence: a block would be as long as it.
    """
    writer = _Writer(gm.graph)
    done = 0
    for node in list(gm.graph.nodes):
        how = node.meta.get(BAND)
        if how is None or not isinstance(how.length, int) or len(how.blocks) < 2 or is_call(node, "random"):
            continue
        with gm.graph.inserting_before(node):
            out = writer.attention(node, how)
        node.replace_all_uses_with(out)
        gm.graph.erase_node(node)
        done += 1
    if done:
        gm.graph.eliminate_dead_code()
        gm.recompile()
    return done


class _Writer:
    """Emits blocks; masks of one size are made once."""

    def __init__(self, graph: fx.Graph):
        self.graph = graph
        self.masks: dict[tuple, fx.Node] = {}
        self.meta: dict = {}

    def attention(self, node: fx.Node, how: Band) -> fx.Node:
        self.meta = {k: v for k, v in node.meta.items() if k not in (BAND, "val", "autosp", "autosp_op")}
        own, (mask_of, causal) = (traits(node.target).names(word) for word in ("attention", "masked"))
        queries, keys, values = (self._cut(x, how.blocks) for x in named(node, "attention"))
        outputs = []
        for i, n in enumerate(how.blocks):
            before = how.window - 1 if i else 0
            k, v = (self._with_tail(xs, i, how.blocks, before) for xs in (keys, values))
            mask = self._mask(n, before, how)
            changed = {**dict(zip(own, (queries[i], k, v), strict=True)), mask_of: mask, causal: False}
            outputs.append(self._call(node.target, *with_arguments(node.target, node.args, node.kwargs, **changed)))
        joined = self._call(aten.cat.default, (outputs, -2))
        joined.meta[BLOCK] = node.name
        return joined

    def _cut(self, x: fx.Node, sizes: list[int]) -> list[fx.Node]:
        parts = self._call(aten.split_with_sizes.default, (x, list(sizes), -2))
        return [self._call(operator.getitem, (parts, i)) for i in range(len(sizes))]

    def _with_tail(self, xs: list[fx.Node], i: int, sizes: list[int], before: int) -> fx.Node:
        """A block, behind the last rows of the one before it."""
        if not before:
            return xs[i]
        last = sizes[i - 1]
        tail = self._call(aten.slice.Tensor, (xs[i - 1], -2, last - before, last))
        return self._call(aten.cat.default, ([tail, xs[i]], -2))

    def _mask(self, n: int, before: int, how: Band) -> fx.Node:
        """Whether query i of a block sees key j of those at hand: `0 <= i - (j - before) < window`."""
        key = (n, before, how.window, how.device)
        if key not in self.masks:
            made = dict(device=how.device, pin_memory=False)
            first = next(iter(self.graph.nodes))
            while first.op == "placeholder":
                first = first.next
            with self.graph.inserting_before(first):
                rows = self._call(aten.arange.start, (before, before + n), made)
                columns = self._call(aten.arange.start, (0, before + n), made)
                apart = self._call(aten.sub.Tensor, (self._call(aten.unsqueeze.default, (rows, 1)), columns))
                seen = self._call(aten.ge.Scalar, (apart, 0))
                near = self._call(aten.lt.Scalar, (apart, how.window))
                self.masks[key] = self._call(aten.logical_and.default, (seen, near))
        return self.masks[key]

    def _call(self, target, args: tuple, kwargs: dict | None = None) -> fx.Node:
        node = self.graph.call_function(target, args, dict(kwargs or {}))
        node.meta.update(self.meta)
        return node
