"""A checker of a graph in tiles: it computes what the graph before it did.

A tile is to a region what a rank is to the program, and this is to tiles what `lower/checker.py` is to ranks. Inferred:
- which part of which value every call gives: the whole, a tile's part of a split dim, or a tile's addend of a sum; from
  the lengths that a value is cut into, and by the operators' rules;
- that a tile's call is its operator's local version there, in the same autocast regions;
- that parts are joined in order, and all of them; that all else is called as before, and what acts beside its result
  (collectives, writes, draws, regions) is called once, in its order.
Taken on trust: the rules; `node.meta["autosp_of"]`, the call that one stands for; `autosp_split`, how finely a value is
cut (its lengths are checked); `autosp_part`, only where a tiled dim is in results alone; that sizes which are equal in
the example's numbers are equal; and the graph before: masks that were given their own calls (`tile_mask.own_masks`).
"""

from __future__ import annotations

import operator
from collections.abc import Mapping
from typing import Any

import attrs
import torch
from torch import fx

from ..capture import place_in, tensors_of
from ..capture.casts import REGION, casts_of
from ..compat.torch import SET_GRAD_ENABLED
from ..errors import CheckError, Problem
from ..lower.held import HELD
from ..lower.match import Anything, Calls, GlobalValue, Size, by_operand, fits, known_reads
from ..rules import default_rules, factor_of, is_a, localise_on_axis
from ..rules.strategies import split_of
from ..sharding import PARTIAL, REPLICATE, Placement, Split, as_size, count
from . import kinds
from .tile_mask import AFTER
from .tile_region import UNCUT
from .tile_values import COLLECTIVE, Ref, Values, ref

aten = torch.ops.aten
OF, SPLIT, PART = "autosp_of", "autosp_split", "autosp_part"
FIX = (
    "this is a fault of autosp or of a rule: switch the pass off with AUTOSP_SKIP=tile, "
    "and report it with AUTOSP_DUMP's files"
)


@attrs.frozen
class TilePart:
    """What a node of the tiled graph is of a value: `at` over `tiles` tiles, the `tile`-th of them. opened: the dim
    that is viewed as two, and the size of the first. of: the tiles whose addends are in it, of a sum that is not whole."""

    ref: Ref
    at: Placement = REPLICATE
    tile: int = 0
    tiles: int = 1
    opened: tuple[int, Any] | None = None
    of: frozenset[int] = frozenset()


def check_tiles(whole: fx.GraphModule, tiled: fx.GraphModule, hints: Mapping | None = None) -> None:
    """Raises CheckError with every fault. whole: the graph that was cut, every node with its fake value; hints: the
    numbers that symbolic sizes had in the example."""
    _TileChecker(whole, tiled, hints).run()


class _TileChecker:
    def __init__(self, whole: fx.GraphModule, tiled: fx.GraphModule, hints: Mapping | None):
        self.tiled, self.values = tiled, Values(whole, default_rules(), hints, known=True)
        self.by_name = {n.name: n for n in whole.graph.nodes}
        self.casts = casts_of(whole.graph), casts_of(tiled.graph)
        self.types: dict[fx.Node, TilePart | tuple[TilePart, ...]] = {}
        self.numbers: dict[fx.Node, int] = {}
        self.faults: list[Problem] = []
        self.tiles: dict[str, int] = {}
        for _, cut, tile in (n.meta[OF] for n in tiled.graph.nodes if OF in n.meta):
            self.tiles[cut] = max(self.tiles.get(cut, 0), tile + 1)

    def run(self) -> None:
        for node in self.tiled.graph.nodes:
            if node.op in ("placeholder", "get_attr"):
                self._input(node)
            elif node.op == "output":
                if not self._same(node.args, self.values.gm.graph.output_node().args):
                    self._fault(node, "an output is another value, or not the whole of it", "outputs stay as they are")
            elif OF not in node.meta:
                self._around(node)
            elif node.meta[OF][1] is None:
                self._copied(node, self.by_name[node.meta[OF][0]])
            else:
                self._in_tile(node, self.by_name[node.meta[OF][0]], *node.meta[OF][1:])
        self._effects()
        if self.faults:
            raise CheckError(self.faults[:10])

    def _input(self, node: fx.Node) -> None:
        matching = (n for n in self.values.gm.graph.find_nodes(op=node.op) if n.target == node.target)
        if (old := next(matching, None)) is None:
            self._fault(node, f"{node} is not an input or a constant of the program", "inputs stay as they are")
            return
        self.types[node] = TilePart((old, 0))
        self._number(node, old)

    def _number(self, node: fx.Node, old: fx.Node) -> None:
        if isinstance(old.meta.get("val"), (int, torch.SymInt)):
            self.numbers[node] = self.values.number(as_size(old.meta["val"]))

    def _copied(self, node: fx.Node, old: fx.Node) -> None:
        """A call outside of every tile is the one that was there, on the same whole values."""
        called = node.target is old.target and self._same((node.args, node.kwargs), (old.args, old.kwargs))
        if not called or self.casts[0].get(old) != self.casts[1].get(node):
            self._fault(node, f"{old.target} is called otherwise than before", "what is in no tile stays as it is")
            return
        self._number(node, old)
        if old.target is operator.getitem:
            self.types[node] = TilePart(ref(old))
        elif isinstance(old.meta.get("val"), (tuple, list)):
            self.types[node] = tuple(TilePart(r) for r in self.values.results(old))
        else:
            self.types[node] = TilePart((old, 0))

    def _same(self, new: Any, old: Any) -> bool:
        """Whether arguments are the same, values being whole."""
        if isinstance(old, fx.Node):
            if not isinstance(new, fx.Node):
                return False
            made = self.types.get(new)
            if isinstance(made, tuple):
                return made == tuple(TilePart(r) for r in self.values.results(old))
            return made == TilePart(ref(old))
        if isinstance(old, (list, tuple)):
            alike = isinstance(new, (list, tuple)) and len(new) == len(old)
            return alike and all(map(self._same, new, old))
        if isinstance(old, Mapping):
            return isinstance(new, Mapping) and list(new) == list(old) and all(self._same(new[k], old[k]) for k in old)
        if isinstance(old, slice):
            return self._same((new.start, new.stop, new.step), (old.start, old.stop, old.step))
        return not isinstance(new, fx.Node) and type(new) is type(old) and (new == old or new != new)

    def _around(self, node: fx.Node) -> None:
        """What cuts and joins; anything else is a part of the local version of the tile's call that reads it."""
        read = [self.types.get(a) for a in node.all_input_nodes if a not in self.numbers]
        number = self._size(node)
        if number is not None:
            self.numbers[node] = number
        elif node.target is operator.getitem and isinstance(read[0], tuple):
            self.types[node] = read[0][node.args[1]]
        elif node.target is aten.split_with_sizes.default and SPLIT in node.meta:
            self._cut(node, read[0], node.meta[SPLIT])
        elif node.target is AFTER:
            self.types[node] = read[0]
        elif node.target is aten.detach.default:
            if any(user.target is not AFTER for user in node.users):
                self._fault(node, f"{node.args[0]} loses its gradient", "gradients flow as before")
        elif "autosp_tile" not in node.meta:
            made = self._joined(node, read) if read and all(isinstance(t, TilePart) for t in read) else None
            if made is None:
                self._fault(node, f"{node.target} neither cuts a value nor joins its parts", "tiles are cut and joined")
            else:
                self.types[node] = made

    def _cut(self, node: fx.Node, whole: TilePart | None, s: Split) -> None:
        _, lengths, dim = node.args
        lengths, number = [self._int(n) for n in lengths], self.values.number
        opened = None if s.outer == 1 else (s.dim, number(s.outer))
        if (
            not isinstance(whole, TilePart)
            or attrs.evolve(whole, opened=None) != TilePart(whole.ref)
            or whole.opened != opened
        ):
            self._fault(node, "what is cut is not a whole value", "a whole value is cut into its tiles' parts")
            return
        units, inner = number(s.units), number(s.inner)
        covers = number(s.outer) * units * inner == number(self.values.shape(whole.ref)[s.dim])
        expected = [count(units, len(lengths), i) * inner for i in range(len(lengths))]
        if not covers or lengths != expected or dim != s.dim + (opened is not None):
            what = f"it is cut into {lengths} along dim {dim}; {s!r} over {len(lengths)} tiles is {expected}"
            self._fault(node, what, "tiles differ by one unit at most, and cover the dim")
            return
        self.types[node] = tuple(
            TilePart(whole.ref, s, i, len(lengths), opened) for i in range(len(lengths))
        )  # fmt: skip

    def _joined(self, node: fx.Node, read: list[TilePart]) -> TilePart | None:
        """What a view, a cat or a sum outside of the tiles gives of parts; None where it is none of a value."""
        first = read[0]
        if node.target is aten.reshape.default:
            return self._viewed(node, first)
        if any(t.ref != first.ref for t in read):
            return None
        if node.target is aten.add.Tensor and len(node.args) == 2 and not node.kwargs:
            # pyrefly: ignore[incompatible-overload-argument]
            a, b = (t.of or ({t.tile} if t.at is PARTIAL else frozenset()) for t in map(self.types.get, node.args))
            if not a or not b or a & b:
                return None
            both = frozenset(a | b)
            return (
                TilePart(first.ref)
                if len(both) == first.tiles
                else TilePart(first.ref, PARTIAL, 0, first.tiles, of=both)
            )
        if node.target is not aten.cat.default or not isinstance(first.at, Split):
            return None
        dim = node.args[1] if len(node.args) > 1 else 0
        parts = [self.types[a] for a in node.args[0]]
        if parts != [attrs.evolve(first, tile=i) for i in range(first.tiles)]:
            return None
        if first.at.outer == 1:
            return TilePart(first.ref) if dim == first.at.dim and first.opened is None else None
        opened = first.at.dim, self.values.number(first.at.outer)
        return TilePart(first.ref, opened=opened) if first.opened == opened and dim == first.at.dim + 1 else None

    def _viewed(self, node: fx.Node, t: TilePart) -> TilePart | None:
        """A dim viewed as two, or back."""
        shape = [self._int(n) for n in node.args[1]]
        closed = [self.values.number(n) for n in self.values.shape(t.ref)]
        if isinstance(t.at, Split):
            length = count(self.values.number(t.at.units), t.tiles, t.tile) * self.values.number(t.at.inner)
            closed[t.at.dim] = self.values.number(t.at.outer) * length
        if t.opened is not None:
            return attrs.evolve(t, opened=None) if shape == closed else None
        for dim, size in enumerate(closed):
            outer = shape[dim] if dim < len(shape) else None
            if outer and size % outer == 0 and shape == [*closed[:dim], outer, size // outer, *closed[dim + 1 :]]:
                return attrs.evolve(t, opened=(dim, outer))
        return None

    def _in_tile(self, node: fx.Node, old: fx.Node, cut: str, tile: int) -> None:
        """A tile's call is its operator's local version, on the tile's parts."""
        call, tiles, refs = self.values.call(old), self.tiles[cut], self.values.operands(old)
        read = self._read(node)
        if call is None or {t.ref for t in read} != set(refs) or not all(_is_own_part(t, tile, tiles) for t in read):
            self._fault(node, f"{old.target} does not read the parts of its operands", "a tile reads its own parts")
            return
        have = [t.at for t in by_operand(refs, [(t.ref, t) for t in read])]
        splits = [(i, at) for i, at in enumerate(have) if at is not REPLICATE]
        part = factor_of(call, *splits[0]) if splits else node.meta.get(PART)
        needs = gives = None
        if part is None and not splits:
            needs, gives = (REPLICATE,) * len(refs), (REPLICATE,) * len(call.results)
        elif part is not None and call.kinds[part[0]] != "whole":
            needs = tuple(split_of(call, dims, *part, UNCUT) or REPLICATE for dims in call.operands)
            summed = call.kinds[part[0]] == "reduce"
            gives = tuple(PARTIAL if summed else split_of(call, d, *part, UNCUT) or REPLICATE for d in call.results)
        if needs is None or list(needs) != have or (PARTIAL in gives and call.once):
            self._fault(node, f"{old.target} has no strategy for its parts", f"the operator's rule: {call.rule}")
            return
        args, kwargs = fx.map_arg((old.args, old.kwargs), self._expected)
        results = self.values.results(old)
        expected = localise_on_axis(
            old.target, args, kwargs, call, needs, gives, tuple(map(self.values.shape, results)), tiles, tile,
            lambda target, args, kwargs: Calls(target, tuple(args), dict(kwargs)), Size,
        )  # fmt: skip
        if not fits(node, expected, self._value, self._int) or self.casts[0].get(old) != self.casts[1].get(node):
            self._fault(
                node, f"{node.target} is called otherwise than {old.target} is in a tile", "a tile's call is local"
            )
            return
        made = tuple(
            TilePart(r, at, tile if at is not REPLICATE else 0, tiles if at is not REPLICATE else 1)
            for r, at in zip(results, gives, strict=True)
        )
        self.types[node] = made if isinstance(old.meta["val"], (tuple, list)) else made[0]

    def _read(self, node: fx.Node) -> list[TilePart]:
        """The parts that a call reads, through the calls that its local version is made of."""
        known = known_reads(node, lambda n: isinstance(self.types.get(n), TilePart))
        return [self.types[n] for n in known if n not in self.numbers]

    def _expected(self, n: fx.Node) -> Any:
        val = n.meta.get("val")
        if tensors_of(val):
            return GlobalValue(ref(n))
        return Size(as_size(val)) if isinstance(val, (int, torch.SymInt)) else Anything()

    def _value(self, n: fx.Node) -> Ref | None:
        part = self.types.get(n)
        return part.ref if isinstance(part, TilePart) else None

    def _int(self, x: Any) -> int | None:
        if isinstance(x, fx.Node):
            return self.numbers.get(x)
        return None if isinstance(x, (str, float)) else self.values.number(as_size(x))

    def _size(self, node: fx.Node) -> int | None:
        """The number that a call of sizes gives."""
        if getattr(node.target, "__module__", "") not in ("_operator", "operator") or node.target is operator.getitem:
            return None
        args = [self._int(a) for a in node.args]
        return None if None in args else node.target(*args)

    def _effects(self) -> None:
        """What acts beside its result is called as often as before, in the order of before."""
        expected = [n.name for n in self.values.gm.graph.nodes if _acts(n)]
        copies = [n.meta[OF][0] for n in self.tiled.graph.nodes if OF in n.meta and n.meta[OF][1] is None]
        if expected != [name for name in copies if _acts(self.by_name[name])]:
            what = "collectives, writes, draws or regions are called in another order, or not once each"
            self._fault(self.tiled.graph.output_node(), what, "what acts beside its result is called as before")

    def _fault(self, node: fx.Node, what: str, rule: str) -> None:
        self.faults.append(Problem(what=what, rule=rule, fix=FIX, where=place_in("tiled", node)))


def _is_own_part(t: TilePart, tile: int, tiles: int) -> bool:
    """Whether a tile's call may read a part: the whole, or its own."""
    if t.opened is not None or t.at is PARTIAL:
        return False
    return t.at is REPLICATE or (t.tile, t.tiles) == (tile, tiles)


def _acts(n: fx.Node) -> bool:
    acts = n.target in (*COLLECTIVE, *REGION, SET_GRAD_ENABLED, HELD, aten.copy_.default)
    return acts or is_a(n, "assertion") or kinds.is_random(n)
