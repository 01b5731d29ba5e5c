"""A graph in which regions are run tile by tile.

A tile is to a region what a rank is to the program: its part of the tokens under a split over a
virtual axis. So the local version of each call is the one that the rules give a rank.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterator
from functools import partial

import attrs
import sympy
import torch
from torch import fx
from torch.utils.checkpoint import CheckpointPolicy

from ..compat.torch import carry_placeholder, carry_sources
from ..lower.sizes import Sizes
from ..rules import localise_on_axis
from ..rules.strategies import split_of
from ..sharding import PARTIAL, REPLICATE, Placement, Split, as_size, count
from .tile_mask import after, mask_of
from .tile_region import UNCUT, TileRegion, Track, part_of
from .tile_values import COLLECTIVE, Ref, Values, ref

aten = torch.ops.aten
_OWN = ("val", "tensor_meta", "autosp", "autosp_op", "autosp_change", "autosp_of")  # that speaks of the whole value


@attrs.frozen(eq=False)
class Cut:
    """A region, the dim of its tokens that is cut, and into how many tiles."""

    name: str
    region: TileRegion
    track: Track
    tiles: int


def emit(gm: fx.GraphModule, values: Values, cuts: list[Cut]) -> fx.GraphModule:
    """The graph of `values`, a copy of `gm`'s, with every cut made. Where a region stood, its
    pieces, its tiles in order, and what joins their results stand together."""
    return in_place_of(gm, _Emitter(values, cuts).run())


def collectives(gm: fx.GraphModule) -> list[str]:
    """What the graph sends between ranks, in order, by the names that a copy keeps."""
    return [n.name for n in gm.graph.nodes if n.target in COLLECTIVE]


def in_place_of(gm: fx.GraphModule, graph: fx.Graph) -> fx.GraphModule:
    """A graph with the attributes, the metadata and the inputs of `gm`."""
    for old, new in zip(gm.graph.find_nodes(op="placeholder"), graph.find_nodes(op="placeholder"), strict=True):
        carry_placeholder(old, new)
        new.meta["val"] = old.meta.get("val")
    new = fx.GraphModule(gm, graph)
    new.meta.update(gm.meta)
    carry_sources(gm, new)
    new.graph.lint()
    return new


class _Emitter:
    def __init__(self, values: Values, cuts: list[Cut]):
        self.values, self.cuts = values, cuts
        self.cut_of = {n: c for c in cuts for n in c.region.members}
        self.last = {c.region.nodes[-1]: c for c in cuts}
        self.graph = fx.Graph()
        self.env: dict[fx.Node, fx.Node] = {}
        self.joined: dict[Ref, fx.Node] = {}
        self.done: set[Cut] = set()

    def run(self) -> fx.Graph:
        for node in self.values.gm.graph.nodes:
            if node in self.last:
                self._tiles(self.last[node])
            elif node not in self.cut_of and ref(node)[0] not in self.cut_of:
                self._copy(node)
        self.graph.eliminate_dead_code()
        for node in self.graph.nodes:
            if node.op != "placeholder":
                node.meta.pop("val", None)
        return self.graph

    def _node(self, node: fx.Node) -> fx.Node:
        """The new node of an old one that lies in no region, or of a region's joined result."""
        if ref(node)[0] in self.cut_of:
            self._tiles(self.cut_of[ref(node)[0]])
            return self.joined[ref(node)]
        if node not in self.env:
            self._copy(node)
        return self.env[node]

    def _copy(self, node: fx.Node) -> None:
        if node not in self.env:
            for before in node.all_input_nodes:
                self._node(before)
            self.env[node] = made = self.graph.node_copy(node, self._node)
            if node.op == "call_function":
                made.meta["autosp_of"] = (node.name, None, 0)

    def _tiles(self, cut: Cut) -> None:
        if cut in self.done:
            return
        self.done.add(cut)
        for node in cut.region.nodes:
            for before in node.all_input_nodes:
                if ref(before)[0] not in cut.region.members:
                    self._node(before)
        meta = {k: v for k, v in cut.region.seed.meta.items() if k in ("nn_module_stack", "stack_trace")}
        outer = _Outer(self.graph, self._size, cut.tiles, meta)
        tiler = _Tiler(cut, self.values, outer, self._node, self._size)
        tiles = [tiler.run(i) for i in range(cut.tiles)]
        for r in cut.region.outputs():
            self.joined[r] = outer.join([made[r] for made in tiles], cut.track.at[r])

    def _size(self, size):
        size = as_size(size)
        return size if isinstance(size, int) else self._sizes(size)

    @property
    def _sizes(self) -> Sizes:
        """Symbolic sizes from the new graph's inputs."""
        if not hasattr(self, "_made"):
            self._made = Sizes(self.graph, dict(self._symbols()))
        return self._made

    def _symbols(self) -> Iterator[tuple[sympy.Symbol, fx.Node]]:
        """Symbols by an input that gives them; the graph reads those of shapes already."""
        for old in self.values.gm.graph.nodes:
            val = old.meta.get("val")
            is_size = old.op == "placeholder" or old.target is aten.sym_size.int
            if isinstance(val, torch.SymInt) and is_size and isinstance(as_size(val), sympy.Symbol):
                yield as_size(val), self._node(old)


@attrs.frozen(eq=False)
class _Outer:
    """What stands around the tiles: inputs are cut, results joined."""

    graph: fx.Graph
    size: Callable
    tiles: int
    meta: dict

    def _call(self, target, *args) -> fx.Node:
        node = self.graph.call_function(target, args)
        node.meta.update(self.meta)
        return node

    def lengths(self, s: Split) -> list:
        """How long each tile is, along the split dim of a whole outer unit."""
        return [as_size(count(s.units, self.tiles, i) * s.inner) for i in range(self.tiles)]

    def cut(self, x: fx.Node, shape: tuple, s: Split) -> list[fx.Node]:
        """A whole value's part in every tile. One split has one cat as its backward."""
        lengths, dim = self.lengths(s), s.dim
        if s.outer != 1:
            opened = [*shape[: s.dim], s.outer, as_size(s.units * s.inner), *shape[s.dim + 1 :]]
            x, dim = self._call(aten.reshape.default, x, [self.size(n) for n in opened]), dim + 1
        parts = self._call(aten.split_with_sizes.default, x, [self.size(n) for n in lengths], dim)
        parts.meta["autosp_split"] = s
        items = [self._call(operator.getitem, parts, i) for i in range(self.tiles)]
        if s.outer == 1:
            return items
        shapes = [[*shape[: s.dim], as_size(s.outer * n), *shape[s.dim + 1 :]] for n in lengths]
        return [
            self._call(aten.reshape.default, f, [self.size(n) for n in to]) for f, to in zip(items, shapes, strict=True)
        ]

    def join(self, parts: list[tuple[fx.Node, tuple]], at: Placement) -> fx.Node:
        """The whole value from every tile's part, each a node and its shape: joined, or summed."""
        nodes = [node for node, _ in parts]
        if at is PARTIAL:
            total = nodes[0]
            for node in nodes[1:]:
                total = self._call(aten.add.Tensor, total, node)
            return total
        if at.outer == 1:
            return self._call(aten.cat.default, nodes, at.dim)
        opened = []
        for (node, shape), n in zip(parts, self.lengths(at), strict=True):
            to = [*shape[: at.dim], at.outer, n, *shape[at.dim + 1 :]]
            opened.append(self._call(aten.reshape.default, node, [self.size(k) for k in to]))
        whole = list(parts[0][1])
        whole[at.dim] = as_size(at.outer * at.units * at.inner)
        joined = self._call(aten.cat.default, opened, at.dim + 1)
        return self._call(aten.reshape.default, joined, [self.size(n) for n in whole])


class _Tiler:
    """Writes one region's calls once for each tile."""

    def __init__(self, cut: Cut, values: Values, outer: _Outer, node: Callable, size: Callable):
        self.cut, self.values, self.outer, self.node, self.size = cut, values, outer, node, size
        self.pieces: dict[tuple[Ref, Split], list[fx.Node]] = {}
        self.waited: dict[tuple[Ref, Split, int], fx.Node] = {}
        self.made: dict[Ref, tuple[fx.Node, tuple]] = {}  # of the tile before

    def run(self, tile: int) -> dict[Ref, tuple[fx.Node, tuple]]:
        """The tile's values, with their shapes."""
        made: dict[Ref, tuple[fx.Node, tuple]] = {}
        for node in self.cut.region.nodes:
            self._call(node, tile, made)
        self.made = made
        return made

    def _call(self, node: fx.Node, tile: int, made: dict) -> None:
        values, call = self.values, self.values.call(node)
        needs, gives = placements(self.cut, node)
        operands = iter(zip(values.operands(node), needs, strict=True))

        def local(n: fx.Node):
            if not _is_tensor(n):
                return self.node(n)
            r, need = next(operands)
            return made[r][0] if r in made else self._waiting(r, need, n, tile, node)

        args, kwargs = fx.map_arg(node.args, local), fx.map_arg(node.kwargs, local)
        results = values.results(node)
        out = localise_on_axis(
            node.target, args, kwargs, call, needs, gives, tuple(values.shape(r) for r in results),
            self.cut.tiles, tile, partial(self._emit, node, tile), self.size,
        )  # fmt: skip
        out.meta["autosp_of"] = (node.name, self.cut.name, tile)
        out.meta["autosp_part"] = part_of(values, self.cut.track, node, call) or None
        single = isinstance(node.meta["val"], torch.Tensor)
        for i, (r, at) in enumerate(zip(results, gives, strict=True)):
            item = out if single else self._emit(node, tile, operator.getitem, (out, i), {})
            made[r] = item, self._shape(r, at, tile)

    def _shape(self, r: Ref, at: Placement, tile: int) -> tuple:
        shape = list(self.values.shape(r))
        if isinstance(at, Split):
            shape[at.dim] = as_size(at.outer * count(at.units, self.cut.tiles, tile) * at.inner)
        return tuple(shape)

    def _waiting(self, r: Ref, need: Placement, n: fx.Node, tile: int, like: fx.Node) -> fx.Node:
        """An operand; a piece that a mask is made from is there once the tile before has run."""
        seed = self.cut.region.seed
        if mask_of(seed) is None or like is seed or not isinstance(need, Split):
            return self._piece(r, need, n, tile)
        if (r, need, tile) not in self.waited:
            query, at = self.values.operands(seed)[0], placements(self.cut, seed)[0][0]
            before = self.made[seed, 0][0] if tile else self._piece(query, at, seed.args[0], tile)
            emit = partial(self._emit, like, tile)
            self.waited[r, need, tile] = after(emit, self._piece(r, need, n, tile), before)
        return self.waited[r, need, tile]

    def _piece(self, r: Ref, need: Placement, n: fx.Node, tile: int) -> fx.Node:
        """An input's part in the tile; the whole where it holds no tokens."""
        if not isinstance(need, Split):
            return self.node(n)
        if (r, need) not in self.pieces:
            self.pieces[r, need] = self.outer.cut(self.node(n), self.values.shape(r), need)
        return self.pieces[r, need][tile]

    def _emit(self, like: fx.Node, tile: int, target, args, kwargs) -> fx.Node:
        """A call of a tile: whatever is chosen for the rest of the program, it is made again in the
        backward, so that no tile's values wait for it; an attention's results may be held. Its place in
        the user's code is `like`'s."""
        node = self.outer.graph.call_function(target, tuple(args), dict(kwargs))
        node.meta = {k: v for k, v in like.meta.items() if k not in _OWN}
        if mask_of(like) is None or like is not self.cut.region.seed:
            node.meta["recompute"] = CheckpointPolicy.MUST_RECOMPUTE
            node.meta.setdefault("ac_graph_id", 0)  # a user's own checkpoint keeps its number
        node.meta["autosp_tile"] = (self.cut.name, tile)
        node.meta["custom"] = {**like.meta.get("custom", {}), "autosp_tile": (self.cut.name, tile)}
        return node


def placements(cut: Cut, node: fx.Node) -> tuple[tuple[Placement, ...], tuple[Placement, ...]]:
    """How a call's operands and results lie over the tiles."""
    values = cut.region.values
    call, part = values.call(node), part_of(values, cut.track, node, values.call(node))
    if not part:
        return (REPLICATE,) * len(call.operands), (REPLICATE,) * len(call.results)
    needs = tuple(split_of(call, dims, *part, UNCUT) or REPLICATE for dims in call.operands)
    if call.kinds[part[0]] == "reduce":
        return needs, (PARTIAL,) * len(call.results)
    return needs, tuple(split_of(call, dims, *part, UNCUT) or REPLICATE for dims in call.results)


def _is_tensor(node: fx.Node) -> bool:
    val = node.meta.get("val")
    return isinstance(val, (torch.Tensor, tuple, list))
