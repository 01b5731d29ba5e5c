"""One tile after another in a compiler that fuses: Inductor joins the tiles' kernels side by side
(they read one gradient), and would first make every tile's logits.

A pass over the graph that Inductor lowers: each product of a tile waits for what the tile before
it leaves. A product is no part of a fused kernel, so kernels of two tiles can't be one.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence

import torch
from torch import fx

from ..compat.torch import CustomGraphPass, OrderedSet
from ..rules import is_a, user
from .tile_mask import AFTER


class InOrder(CustomGraphPass):
    """For `torch._inductor.config.post_grad_custom_post_pass`."""

    def __call__(self, graph: fx.Graph) -> None:
        waits = {product: OrderedSet(before) for product, before in waiting(list(graph.nodes))}
        if waits:
            from ..compat.torch import preserve_node_ordering

            preserve_node_ordering(graph, waits)

    def uuid(self) -> str:
        own = "".join(f"\n{rule}" for rule in user.own_rules())  # which may say that an operator is a product
        return f"autosp tiles in order, 4{own}"  # keys compiled code: a change of what this pass does needs another


def waiting(nodes: Sequence[fx.Node]) -> Iterator[tuple[fx.Node, list[fx.Node]]]:
    """Products of tiles with what each has to wait for; empty for a program without tiles.

    nodes: the calls of a program, in order.
    """
    order = {n: i for i, n in enumerate(nodes)}
    for tiles in regions(nodes).values():
        for before, after in itertools.pairwise(tiles):
            left = leaves(before)
            for product in after:
                awaited = [n for n in left if order.get(n, len(nodes)) < order[product]]
                if _waits(product) and awaited:
                    yield product, awaited


def regions(nodes: Sequence[fx.Node]) -> dict[str, list[list[fx.Node]]]:
    """The calls of every region's tiles, the tile that begins first in front. The backward of
    a call has the name of its tile too: autograd's nodes take the metadata of the forward's."""
    order = {n: i for i, n in enumerate(nodes)}
    tiles_of: dict[str, dict[int, list[fx.Node]]] = {}
    for node in nodes:
        name = (node.meta.get("custom") or {}).get("autosp_tile")
        if name is not None and node.op == "call_function":
            tiles_of.setdefault(name[0], {}).setdefault(name[1], []).append(node)
    made = {r: [t for t in tiles.values() if _beginning(t)] for r, tiles in tiles_of.items()}
    return {r: sorted(tiles, key=lambda t: order[_beginning(t)[0]]) for r, tiles in made.items()}


def _beginning(calls: list[fx.Node]) -> list[fx.Node]:
    return [n for n in calls if _waits(n)]


def _waits(n: fx.Node) -> bool:
    """What a tile begins with, and no fused kernel can hold."""
    return is_a(n, "matmul") or n.target is AFTER


def leaves(tile: list[fx.Node]) -> list[fx.Node]:
    """What a tile ends in: calls that need what it begins with and that no call inside reads; and sums
    outside that read the tile (the gradient of a weight, or of keys and values, added to that of the
    tiles before)."""
    inside, after = set(tile), set(_beginning(tile))
    for n in tile:
        if any(i in after for i in n.all_input_nodes):
            after.add(n)
    ends = [n for n in tile if n in after and not any(u in inside for u in n.users)]
    outside = [u for n in tile if n in after for u in n.users if u not in inside and is_a(u, "matmul", "add")]
    return [n for n in dict.fromkeys(ends + outside) if isinstance(n.meta.get("val"), torch.Tensor)]
