"""Tiling: wide values computed a few tokens at a time, in the forward and again in the backward.

`tile loss` is for the logits (tokens x vocabulary), `tile mlp` for what lies between the widening
and the narrowing product of a layer. The local graph is still a program of operators under rule,
so a region that may be tiled is found by them (`tile_region`), and written out by them
(`tile_emit`). A tile holds no collective: ranks may have different numbers of tiles.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import ceil

import attrs
import torch
from torch import fx

from ..capture import module_path, source_line
from ..capture.canonical import canonicalise
from ..rules import default_rules
from ..sharding import PARTIAL
from ..spec import Tile
from . import messages
from .tile_emit import Cut, collectives, emit, in_place_of, placements
from .tile_hoist import hoist, last_products
from .tile_mask import mask_of, mask_region, masked, own_masks
from .tile_region import TileRegion, Track, grow
from .tile_values import Values, quiet, ref

MiB = 2**20
MOST = {"loss": 64, "mlp": 16, "mask": 32}  # tiles that `auto` makes
LEAST = {"loss": 32 * MiB, "mlp": 256 * MiB, "mask": 64 * MiB}  # bytes below which `auto` makes none
PART = 256  # a tile of `auto` takes no more than one part in so many of a budget, unless its input does


@attrs.frozen
class Tiled:
    """What one region became.

    bytes_whole, bytes_tile: of its widest value (loss), of all its intermediates (mlp), or of the
    mask, on this rank, as one and in one tile. source: the user's line of the product that it begins with.
    """

    what: str
    module: str
    tiles: int
    bytes_whole: int
    bytes_tile: int
    source: str


@attrs.frozen(eq=False)
class Tilings:
    """A local graph in tiles. whole: what was cut, every node with its fake value; None where nothing was. tiled: what
    was; notes: on what was not and why."""

    local: fx.GraphModule
    whole: fx.GraphModule | None = None
    tiled: tuple[Tiled, ...] = ()
    notes: tuple[str, ...] = ()


def tile(
    gm: fx.GraphModule, tiles: Sequence[Tile], hints: Mapping | None = None, room: int = 0
) -> tuple[fx.GraphModule, tuple[Tiled, ...], tuple[str, ...]]:
    """What `tilings` gives, without what was cut."""
    made = tilings(gm, tiles, hints, room)
    return made.local, made.tiled, made.notes


def tilings(gm: fx.GraphModule, tiles: Sequence[Tile], hints: Mapping | None = None, room: int = 0) -> Tilings:
    """The local graph with its loss, its MLPs and its masks in tiles, as `tiles` requests.

    gm: the local graph of one rank, its inputs with their fake values in `val`. hints: the numbers
    that symbolic sizes had in the example. room: bytes that activations may take, 0 where no budget
    says so. The graph that is given stays as it is; it is given back where nothing is tiled.
    """
    requested = {"mask": "auto"} | {t.what: t.mode for t in tiles}
    modes = {what: mode for what, mode in requested.items() if mode != "none" and (what != "mask" or masked(gm))}
    if not modes:
        return Tilings(gm)
    work = _copy(gm)
    values = Values(work, default_rules(), hints)
    if "mask" in modes and own_masks(work, values, LEAST["mask"] if modes["mask"] == "auto" else 0):
        values = Values(work, values.book, hints)
    if "loss" in modes:
        values = _prepared(work, values, hints)
    return _Tiling(gm, values, modes, room).run()


def _copy(gm: fx.GraphModule) -> fx.GraphModule:
    """A graph to rewrite; its inputs keep their fake values."""
    graph = fx.Graph()
    graph.output(graph.graph_copy(gm.graph, {}))
    return in_place_of(gm, graph)


def _prepared(work: fx.GraphModule, values: Values, hints: Mapping | None) -> Values:
    """Mean losses as a sum over a count, and slices of tokens before the product."""
    with quiet(work):
        canonicalise(work, training=torch.is_grad_enabled())
        values = Values(work, values.book, hints)
        return Values(work, values.book, hints) if hoist(values, last_products(values)) else values


class _Tiling:
    def __init__(self, gm: fx.GraphModule, values: Values, modes: dict, room: int):
        self.gm, self.values, self.modes, self.room = gm, values, modes, room
        self.cuts: list[Cut] = []
        self.tiled: list[Tiled] = []
        self.notes: list[tuple[str, str, str]] = []

    def run(self) -> Tilings:
        with quiet(self.values.gm):
            if "mask" in self.modes:
                self._masks()
            if "loss" in self.modes:
                self._losses()
            if "mlp" in self.modes:
                self._mlps()
            new = emit(self.gm, self.values, self.cuts) if self.cuts else self.gm
        if collectives(new) != collectives(self.gm):
            return Tilings(self.gm, notes=(messages.reordered(),))
        whole = self.values.gm if self.cuts else None
        return Tilings(new, whole, tuple(self.tiled), tuple(messages.gathered(self.notes)))

    def _losses(self) -> None:
        seeds, again = last_products(self.values), _made(self.gm, "loss")
        regions = [grow(self.values, s) for s in seeds if "autosp_tile" not in s.meta]
        for region in regions:
            if region.fault or region.random:
                self._note("loss", region, region.fault or messages.random(region.random))
            elif _is_loss(region):
                self._make("loss", region)
        if not again and not any(_is_loss(r) or r.fault or r.random for r in regions):
            self.notes.append(("loss", "", messages.nothing("loss")))

    def _masks(self) -> None:
        for node in masked(self.values.gm):
            if "autosp_tile" in node.meta or mask_of(node).op == "placeholder":
                continue
            region = mask_region(self.values, node)
            if self.modes["mask"] == "auto" and _bytes("mask", region)[0] < LEAST["mask"]:
                continue
            if region.fault or region.random:
                self._note("mask", region, region.fault or messages.random(region.random))
            else:
                self._make("mask", region)

    def _mlps(self) -> None:
        taken: set[fx.Node] = {n for c in self.cuts for n in c.region.members}
        again, any_mlp = _made(self.gm, "mlp"), False
        for seed in list(self.values.gm.graph.nodes):
            if seed in taken or "autosp_tile" in seed.meta or self.values.weighted(seed) is None:
                continue
            region = grow(self.values, seed)
            if region.fault or len(region.open) != len(region.tokens) or not _is_mlp(region):
                continue
            taken |= set(region.members)
            any_mlp = True
            if region.random:
                self._note("mlp", region, messages.random(region.random))
            else:
                self._make("mlp", region)
        if not any_mlp and not again:
            self.notes.append(("mlp", "", messages.nothing("mlp")))

    def _make(self, what: str, region: TileRegion) -> None:
        """Cut the region into the requested tiles, or note why it stays whole."""
        sizes = _bytes(what, region)
        mode = self.modes[what]
        if mode == "auto" and sizes[0] < LEAST[what]:
            self._note(what, region, messages.small(what, sizes[0], LEAST[what]))
            return
        number = _number(what, *sizes, self.room) if mode == "auto" else mode
        track, longest, most = _longest(region, number)
        number = min(number, most)
        if number < 2:
            self._note(what, region, messages.few_tokens(longest) if most < 2 else messages.one_tile())
            return
        cut = Cut(f"{what}.{len(self.cuts)}", region, track, number)
        if not _consistent(cut):
            self._note(what, region, messages.two_dims(region.seed))
            return
        self.cuts.append(cut)
        whole = sizes[0]
        part = whole * ceil(longest / number) // longest
        module = module_path(region.seed) if what == "mask" else _module(region)
        self.tiled.append(Tiled(what, module, number, whole, part, source_line(region.seed)))

    def _note(self, what: str, region: TileRegion, why: str) -> None:
        self.notes.append((what, _module(region), why))


def _number(what: str, whole: int, small: int, room: int) -> int:
    """How many tiles `auto` makes: each about as large as what goes in, or as a budget does not feel."""
    return min(MOST[what], max(2, ceil(whole / max(1, small, room // PART))))


def _made(gm: fx.GraphModule, what: str) -> bool:
    """Whether the graph has tiles of the kind already."""
    return any(n.meta["autosp_tile"][0].startswith(what) for n in gm.graph.nodes if "autosp_tile" in n.meta)


def _is_loss(region: TileRegion) -> bool:
    """Whether the wide dim ends in values per token, or in sums: not in an output, nor in a product."""
    return not region.fault and bool(region.ends()) and not any(map(region.values.weighted, region.ends()))


def _is_mlp(region: TileRegion) -> bool:
    """Whether the region widens by products with weights, and narrows by such products alone."""
    values = region.values
    ends, products = region.ends(), [n for n in region.members if values.weighted(n)]
    widening = [n for n in products if n not in ends and values.weighted(n)[0][0] not in region.members]
    wide = sum(values.numel((n, 0)) for n in widening)
    return bool(ends) and all(e in products for e in ends) and wide > values.numel(region.x)


def _bytes(what: str, region: TileRegion) -> tuple[int, int]:
    """What a tile is to make small, and what it is measured against: the widest value and the
    activation that goes in; all intermediates and the activations in and out; or the mask and the queries."""
    values = region.values
    if what == "mask":
        return values.bytes(ref(mask_of(region.seed))), values.bytes(region.x)
    made = [r for r in region.wide_values() if not values.call(r[0]).movement or what == "loss"]
    if what == "loss":
        return max(map(values.bytes, made)), values.bytes(region.x)
    return sum(map(values.bytes, made)), values.bytes(region.x) + sum(map(values.bytes, region.outputs()))


def _longest(region: TileRegion, tiles: int) -> tuple[Track, int, int]:
    """The dim of tokens whose largest tile is the smallest part of it, its length here, and the tiles that it has room
    for. Where lengths change, each takes two tokens of the example: a size of one there is a one at any length."""

    def room(track: Track) -> tuple[int, int]:
        units = track.split((region.seed, 0)).units
        length = region.values.number(units)
        return length, length if isinstance(units, int) else length // 2

    def part(track: Track) -> float:
        length, most = room(track)
        return ceil(length / min(tiles, most)) / length if most else 1.0

    best = min(region.open, key=part)
    return best, *room(best)


def _consistent(cut: Cut) -> bool:
    """Whether every value inside is made as it is read, and nothing sums twice."""
    region, values, made = cut.region, cut.region.values, {}
    for node in region.nodes:
        needs, gives = placements(cut, node)
        for r, need in zip(values.operands(node), needs, strict=True):
            if r[0] in region.members and (made.get(r) != need or need is PARTIAL):
                return False
        made |= dict(zip(values.results(node), gives, strict=True))
    return True


def _module(region: TileRegion) -> str:
    """The path of the innermost module that holds every call of the region, or of its product."""
    paths = [p.split(".") for n in region.nodes if (p := module_path(n))]
    common: list[str] = []
    for parts in zip(*paths, strict=False):
        if len(set(parts)) > 1:
            break
        common.append(parts[0])
    return ".".join(common) or module_path(region.seed)


__all__ = ["Tiled", "tile"]
