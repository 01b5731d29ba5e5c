"""Parts of a graph that repeat, by structure: what they are called plays no role.

Two parts are equal if they make the same calls in the same order, with equal constants and values of equal shape, and
their operands lie alike: in the part itself, in the part before it, in something that all parts read, or in an input of
the graph that stands in the same place for each (a layer's own weight).
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Iterator, Mapping, Sequence

import attrs
import numpy as np
import torch
from torch import fx

TRIED = 16  # periods, those that would save the most first
LEAST = 3  # parts that a run has: of two, nothing tells what changes from each to the next
_OPERAND = "an operand"  # stands for a node among a call's arguments


@attrs.frozen(eq=False)
class Repetition:
    """Equal parts, in order. parts: the calls of each, in order, so that `parts[k][i]` corresponds to `parts[0][i]`.
    inputs: the graph's inputs that only one part reads: `inputs[k][j]` corresponds to `inputs[0][j]`."""

    parts: tuple[tuple[fx.Node, ...], ...] = attrs.field(repr=False)
    inputs: tuple[tuple[fx.Node, ...], ...] = attrs.field(repr=False)

    def __len__(self) -> int:
        return len(self.parts)

    @property
    def period(self) -> int:
        """How many calls a part has."""
        return len(self.parts[0])


def find_repetitions(gm: fx.GraphModule, examples: Sequence, least: int = LEAST) -> tuple[Repetition, ...]:
    """The runs of at least so many equal parts, without overlap, in the order of the graph; the one that saves the most
    calls is found first. examples: the values of the graph's inputs: a frozen weight is unlike one that is trained."""
    inputs = gm.graph.find_nodes(op="placeholder")
    given = {n: (shape_of(x), getattr(x, "requires_grad", False)) for n, x in zip(inputs, examples, strict=True)}
    calls = [n for n in gm.graph.nodes if n.op not in ("placeholder", "output")]
    kinds = _numbered(map(kind_of, calls))
    return tuple(_Search(given, least).runs(calls, np.asarray(kinds, dtype=np.int64)))


def kind_of(node: fx.Node) -> Hashable:
    """What equal calls share: the operator, its constants, and the shapes of what it gives."""
    constants = fx.map_arg((node.args, dict(node.kwargs)), lambda n: _OPERAND)
    return str(node.target), repr(constants), shape_of(node.meta.get("val"))


def shape_of(value: object) -> Hashable:
    """Shapes, strides, dtypes and devices of a node's value."""
    if isinstance(value, torch.Tensor):
        return tuple(map(str, value.shape)), tuple(map(str, value.stride())), str(value.dtype), str(value.device)
    if isinstance(value, (tuple, list)):
        return tuple(map(shape_of, value))
    return str(value)


def _numbered(keys: Iterator[Hashable]) -> list[int]:
    numbers: dict[Hashable, int] = {}
    return [numbers.setdefault(key, len(numbers)) for key in keys]


@attrs.frozen
class _Pattern:
    """Where kinds repeat with a period: from `first` on, for `length` calls."""

    first: int
    length: int
    period: int

    @property
    def saved(self) -> tuple[int, int]:
        """Calls beside those of one part; of equals, the shorter period."""
        return (self.length // self.period - 1) * self.period, -self.period


def _stretches(kinds: np.ndarray, least: int) -> Iterator[_Pattern]:
    """The longest stretch of every period."""
    for period in range(1, len(kinds) // least + 1):
        equal = kinds[:-period] == kinds[period:]
        if np.count_nonzero(equal) < period * (least - 1):
            continue
        edges = np.flatnonzero(np.diff(equal, prepend=False, append=False)).reshape(-1, 2)
        first, after = max(edges.tolist(), key=lambda e: e[1] - e[0])
        if after - first >= period * (least - 1):
            yield _Pattern(first, after - first + period, period)


@attrs.frozen
class _Search:
    """given: what inputs of equal parts share. least: parts that a run has."""

    given: Mapping[fx.Node, Hashable]
    least: int

    def runs(self, calls: list[fx.Node], kinds: np.ndarray) -> Iterator[Repetition]:
        """The runs among some calls in a row, in order."""
        found = sorted(_stretches(kinds, self.least), key=lambda s: s.saved, reverse=True)
        run = next(filter(None, (self.cut(calls, each) for each in found[:TRIED])), None)
        if run is None:
            return
        place = {node: i for i, node in enumerate(calls)}
        first, last = place[run.parts[0][0]], place[run.parts[-1][-1]]
        yield from self.runs(calls[:first], kinds[:first])
        yield run
        yield from self.runs(calls[last + 1 :], kinds[last + 1 :])

    def cut(self, calls: Sequence[fx.Node], found: _Pattern) -> Repetition | None:
        """A stretch in parts, cut where the fewest values cross from part to part; None where they are not alike."""
        q, spare = found.period, found.length % found.period
        place = {node: i - found.first for i, node in enumerate(calls)}
        crossing = np.zeros(found.length + 1, dtype=np.int64)
        for i in range(found.length):
            uses = [place.get(user, found.length) for user in calls[found.first + i].users]
            last = min(max(uses, default=i), found.length)
            crossing[i + 1 : last + 1] += 1
        middle = (found.length // q // 2) * q
        begin = min(range(q), key=lambda b: (crossing[middle - q + b] if b else crossing[middle], b > spare, b))
        parts = [tuple(calls[found.first + k : found.first + k + q]) for k in range(begin, found.length - q + 1, q)]
        return self._alike(parts)

    def _alike(self, parts: list[tuple[fx.Node, ...]]) -> Repetition | None:
        """The longest run of parts whose operands lie alike."""
        at = {node: (k, i) for k, part in enumerate(parts) for i, node in enumerate(part)}
        operands = [[n for node in part for n in node_operands(node)] for part in parts]
        same = [self._follows(operands[k - 1], operands[k], k, at) for k in range(1, len(parts))]
        first, length = max(_streaks(same), key=lambda s: s[1], default=(0, 0))
        chosen = range(first, first + length + 1)
        if len(chosen) < self.least:
            return None
        own = _own_inputs([operands[k] for k in chosen], [set(parts[k]) for k in chosen])
        return None if own is None else Repetition(tuple(parts[k] for k in chosen), own)

    def _follows(self, before: Sequence[fx.Node], now: Sequence[fx.Node], k: int, at: dict) -> bool:
        """Whether the operands of a part lie as those of the part before it. The first part of a run may read from outside
        what the others read from the part before."""
        return len(before) == len(now) and all(self._same(a, b, k, at) for a, b in zip(before, now))

    def _same(self, a: fx.Node, b: fx.Node, k: int, at: dict) -> bool:
        if a is b:
            return a not in at
        if b in at:
            part, i = at[b]
            return at[a] == (part - 1, i) if a in at else part == k - 1
        return a in self.given and self.given[a] == self.given.get(b)


def node_operands(node: fx.Node) -> list[fx.Node]:
    """The nodes that a call reads, in the order of its arguments, as often as they occur."""
    found: list[fx.Node] = []
    fx.map_arg((node.args, node.kwargs), found.append)
    return found


def descendants(roots: Iterable[fx.Node]) -> set[fx.Node]:
    """What depends on these nodes, themselves among it."""
    reached, stack = set(roots), list(roots)
    while stack:
        for user in stack.pop().users:
            if user not in reached and user.op != "output":
                reached.add(user)
                stack.append(user)
    return reached


def _streaks(flags: Sequence[bool]) -> Iterator[tuple[int, int]]:
    """Where flags are set in a row: the first, and how many."""
    first = None
    for i, flag in enumerate([*flags, False]):
        if flag and first is None:
            first = i
        elif not flag and first is not None:
            yield first, i - first
            first = None


def _own_inputs(operands: list[list[fx.Node]], parts: list[set[fx.Node]]) -> tuple[tuple[fx.Node, ...], ...] | None:
    """The inputs of the graph that stand in the same place of each part and differ; None where one of them is read by
    another part too."""
    places = [
        i for i, each in enumerate(zip(*operands))
        if each[0].op == "placeholder" and len(set(each)) > 1
    ]  # fmt: skip
    own = tuple(tuple(dict.fromkeys(part[i] for i in places)) for part in operands)
    alone = all(user in inside for nodes, inside in zip(own, parts) for n in nodes for user in n.users)
    even = len({len(nodes) for nodes in own}) == 1 and len({n for nodes in own for n in nodes}) == sum(map(len, own))
    return own if alone and even else None


__all__ = ["LEAST", "Repetition", "descendants", "find_repetitions", "kind_of", "node_operands", "shape_of"]
