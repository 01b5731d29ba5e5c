"""What a tile may hold: a region of calls, from a weight that widens to where the wide dim is gone.

Nothing here knows a class, a loss function or an activation. A region begins at a product with a
weight and goes on through whoever reads a wide value. Its dims are followed by the operators'
rules: the wide dim, until it is summed or normalised away, and every dim of tokens, which each
call of the region must pass on or sum.
"""

from __future__ import annotations

import attrs
from torch import fx

from ..rules import Projection, factor_of
from ..rules.strategies import product, split_of
from ..sharding import PARTIAL, Placement, Size, Split, as_size
from . import messages
from .tile_values import COLLECTIVE, Ref, Values, ref

UNCUT = 2**61 - 1  # as a number of ranks: no dim is a multiple of it, so a split keeps its units


@attrs.define(eq=False)
class Track:
    """One dim followed through a region: where it is in each value. `fault` says what ends it;
    where a view did that takes the dim apart, `parts` are its parts as (outer, units, inner)."""

    at: dict[Ref, Placement | None] = attrs.field(factory=dict)
    fault: str = ""
    parts: tuple[tuple[Size, Size, Size], ...] = ()

    def put(self, r: Ref, at: Placement | None) -> None:
        if r in self.at and self.at[r] != at and self.at[r] is not None and not self.fault:
            self.fault = messages.two_dims(r[0])
        self.at[r] = at

    def split(self, r: Ref) -> Split | None:
        placement = self.at.get(r)
        return placement if isinstance(placement, Split) else None


@attrs.define(eq=False)
class TileRegion:
    """Calls that are run tile by tile.

    seed: the product that it begins with; x: its activation. wide: the wide dim; tokens: the dims
    that tiles may cut, by the seed's result. members: its calls. fault: why it is none after all,
    random: a call that draws random numbers.
    """

    values: Values
    seed: fx.Node
    x: Ref
    wide: Track
    tokens: list[Track]
    members: dict[fx.Node, None] = attrs.field(factory=dict)
    fault: str = ""
    random: fx.Node | None = None

    @property
    def nodes(self) -> list[fx.Node]:
        """Its calls in the graph's order."""
        return sorted(self.members, key=self.values.order.__getitem__)

    @property
    def open(self) -> list[Track]:
        """The dims of tokens that may be cut."""
        return [t for t in self.tokens if not t.fault]

    def is_wide(self, r: Ref) -> bool:
        return self.wide.split(r) is not None

    def wide_values(self) -> list[Ref]:
        """Every wide value that the region makes."""
        return [r for n in self.nodes for r in self.values.results(n) if self.is_wide(r)]

    def ends(self) -> list[fx.Node]:
        """The calls that take the wide dim away."""
        return [n for n in self.nodes if not any(map(self.is_wide, self.values.results(n)))
                and any(map(self.is_wide, self.values.operands(n)))]  # fmt: skip

    def outputs(self) -> list[Ref]:
        """The values that are read outside."""
        return [r for n in self.nodes for r in self.values.results(n)
                if any(u not in self.members for u in self.values.readers(r))]  # fmt: skip


def begin(values: Values, seed: fx.Node) -> TileRegion:
    """The region of one product with a weight, its result's dims told apart: wide, or tokens."""
    x, w = values.weighted(seed)
    call = values.call(seed)
    at_w, at_x = (values.operands(seed).index(r) for r in (w, x))
    result, shape = (seed, 0), values.shape((seed, 0))
    wide, tokens = Track(), []
    for d, factors in enumerate(call.results[0]):
        if len(factors) != 1:
            continue
        if any(factors == dim for dim in call.operands[at_w]):
            wide.put(result, Split(d, 1, shape[d], 1))
        elif any(factors == dim for dim in call.operands[at_x]):
            tokens.append(Track({result: Split(d, 1, shape[d], 1)}))
    return TileRegion(values, seed, x, wide, tokens)


def grow(values: Values, seed: fx.Node) -> TileRegion:
    """The region of a seed: everything that reads a wide value, what makes the other wide operands
    of those calls, and what lies between. Stops at the first call that no tile can hold."""
    region = _grown(values, begin(values, seed))
    while any(t.parts for t in region.tokens):  # a dim that a view takes apart is followed in parts
        again = begin(values, seed)
        again.tokens = [Track({(seed, 0): s}) for t in region.tokens for s in _in_parts(t, (seed, 0))]
        region = _grown(values, again)
    return region


def _in_parts(track: Track, r: Ref) -> list[Split]:
    """The splits of the seed's result that a track stands for, or its parts do."""
    s = track.split(r)
    if not track.parts:
        return [s]
    return [Split(s.dim, as_size(s.outer * o), u, as_size(i * s.inner)) for o, u, i in track.parts]


def _grown(values: Values, region: TileRegion) -> TileRegion:
    seed = region.seed
    if (seed, 0) not in region.wide.at:
        region.fault = messages.ONE_FEATURE
    elif not region.tokens or not values.numel((seed, 0)):
        region.fault = messages.few_tokens(1 if values.numel((seed, 0)) else 0)
    if region.fault:
        return region
    pending = [seed]
    while pending and not region.fault:
        node = pending.pop()
        if node in region.members:
            continue
        _enter(region, node)
        if not region.fault:
            pending += _neighbours(region, node)
    if not region.fault:
        _between(region)
    if not region.fault and not region.open:
        region.fault = region.tokens[0].fault
    return region


def _enter(region: TileRegion, node: fx.Node) -> None:
    """A call becomes a member: its rule carries every dim from what is known to the rest."""
    region.fault = barrier(region.values, node)
    if region.fault:
        return
    call = region.values.call(node)
    if call.random:
        region.random = region.random or node
    region.members[node] = None
    _carry_wide(region, node, call)
    for track in region.tokens:
        if not track.fault:
            _carry(region.values, track, node, call)


def barrier(values: Values, node: fx.Node) -> str:
    """Why no region may hold the call, or ''."""
    if node.op == "output" or (node.target in COLLECTIVE and _is_output(node)):
        return messages.OUTPUT
    if node.target in COLLECTIVE:
        return messages.SENT
    if "autosp_tile" in node.meta:
        return messages.TILED
    if node.op != "call_function" or values.call(node) is None:
        return messages.no_rule(node)
    return ""


def _is_output(node: fx.Node) -> bool:
    """Whether all that reads a change of placement is the output."""
    return all(u.op == "output" or (ref(u)[0] is node and _is_output(u)) for u in node.users)


def _neighbours(region: TileRegion, node: fx.Node) -> list[fx.Node]:
    """Who reads a wide result of a member, and who makes a wide operand that holds tokens too."""
    values = region.values
    neighbours = [u for r in values.results(node) if region.is_wide(r) for u in values.readers(r)]
    for r in values.operands(node):
        holds = any(t.split(r) for t in region.tokens)
        if region.is_wide(r) and holds and r[0] not in region.members and not barrier(values, r[0]):
            neighbours.append(r[0])
    return neighbours


def _places(values: Values, node: fx.Node) -> list[tuple[int, Ref]]:
    """A call's operands and results under the numbers by which its rule knows them."""
    operands = list(enumerate(values.operands(node)))
    return operands + [(~i, r) for i, r in enumerate(values.results(node))]


def part_of(values: Values, track: Track, node: fx.Node, call: Projection):
    """The factor of a call that a dim is, as (factor, outer, units, inner); False where it is none."""
    for i, r in _places(values, node):
        if track.split(r) is not None:
            return factor_of(call, i, track.split(r)) or False
    return None


def _carry(values: Values, track: Track, node: fx.Node, call: Projection) -> None:
    """A dim of tokens through a call that passes it on, or sums it."""
    if any(track.at.get(r) is PARTIAL for r in values.operands(node)):
        track.fault = messages.reads_sum(node)
        return
    part = part_of(values, track, node, call)
    if part is None:
        return
    if part is False:
        track.parts = _taken_apart(values, track, node, call)
    if part is False or call.kinds[part[0]] == "whole":
        track.fault = messages.needs_whole(node)
        return
    summed = call.kinds[part[0]] == "reduce"
    if summed and call.once:
        track.fault = messages.biased_sum(node)
        return
    for i, r in _places(values, node):
        dims = call.operands[i] if i >= 0 else call.results[~i]
        track.put(r, PARTIAL if summed and i < 0 else split_of(call, dims, *part, UNCUT))


def _taken_apart(values: Values, track: Track, node: fx.Node, call: Projection) -> tuple:
    """The factors of a call that make up a followed dim together, outermost first."""
    i, r = next((i, r) for i, r in _places(values, node) if track.split(r) is not None)
    s = track.split(r)
    before, inside = 1, []
    for f in (call.operands[i] if i >= 0 else call.results[~i])[s.dim]:
        if before != s.outer:
            before = as_size(before * call.sizes[f])
        elif product(inside) != s.units:
            inside.append(call.sizes[f])
    if before != s.outer or product(inside) != s.units or len(inside) < 2:
        return ()
    return tuple((product(inside[:k]), n, product(inside[k + 1 :])) for k, n in enumerate(inside))


def _carry_wide(region: TileRegion, node: fx.Node, call: Projection) -> None:
    """The wide dim through a call; a movement may make it shorter (`chunk`, a slice of a padded one)."""
    values, track = region.values, region.wide
    part = part_of(values, track, node, call)
    if part is False:
        region.fault = messages.cuts_features(node)
    if not part:
        return
    for i, r in _places(values, node):
        at = split_of(call, call.operands[i] if i >= 0 else call.results[~i], *part, UNCUT)
        if at is None and i < 0 and call.movement:
            at = _shortened(values, track, node, call, r)
        if at is not None:
            track.put(r, at)


def _shortened(values: Values, track: Track, node: fx.Node, call: Projection, r: Ref) -> Split | None:
    """The wide dim of a movement's result that keeps all dims but is shorter along it."""
    source = next((track.split(o) for o in values.operands(node) if track.split(o)), None)
    shape = values.shape(r)
    if source is None or len(shape) <= source.dim or len(call.operands[0]) != len(shape) or shape[source.dim] == 1:
        return None
    fresh = call.results[r[1]][source.dim]
    if any(f in dim for dims in call.operands for dim in dims for f in fresh):
        return None
    return Split(source.dim, 1, shape[source.dim], 1)


def _between(region: TileRegion) -> None:
    """Calls on a path from the region back into it belong to it."""
    order, values = region.values.order, region.values
    first, last = (f(order[n] for n in region.members) for f in (min, max))
    span = [n for n in values.gm.graph.nodes if first <= order[n] <= last]
    after: set[fx.Node] = set(region.members)
    for n in span:
        if any(i in after for i in n.all_input_nodes):
            after.add(n)
    before: set[fx.Node] = set(region.members)
    for n in reversed(span):
        if any(u in before for u in n.users):
            before.add(n)
    for n in span:
        if n in after and n in before and n not in region.members and ref(n)[0] is n:
            _enter(region, n)
            if region.fault:
                return
