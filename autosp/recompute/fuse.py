"""What a compiler that fuses leaves of a program: the kernels, and the storages between them.

A model of Inductor's, on values and bytes alone: pointwise work is written into its readers where
that reads little (`GraphLowering.run_node`, `StorageBox.should_realize_on_reuse`), loops over one
domain are joined where they share a value (`Scheduler.fuse_nodes`, `score_fusion`), and of four orders of the
kernels the one with the least peak runs (`_inductor/memory.py`, in `order.py` here).
"""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence

import attrs
import torch
from torch import fx

from ..compat.torch import example_size
from ..rules import is_a
from . import kinds
from .compiler import Place
from .joint import Joint, Storage
from .runs import Run, one
from .tile_order import waiting

# Inductor's own thresholds (torch/_inductor/config.py).
READS_OF_A_SHARED_VALUE = 4
READS = {"cpu": 12, "cuda": 8}
OPERATIONS = {"cpu": 50, "cuda": 30}
OPERATIONS_AT_ALL = 100
LOOPS_OF_A_KERNEL = 64


def fused(joint: Joint, nodes: Sequence[fx.Node], keep: Collection[int], device: Place) -> tuple[Run, ...]:
    """The kernels of a program, in the order of their first operators.

    keep: the storages that outlive the program: its outputs. device: that it runs on.
    """
    values = _Values(_with_order(joint, nodes), nodes, keep, device)
    return values.runs(_Kernels(values.loops, values.others).joined())


def _with_order(joint: Joint, nodes: Sequence[fx.Node]) -> Joint:
    """The joint graph where a product of a tile reads a value of no bytes of what it has to wait for (`InOrder`)."""
    makes, needs = dict(joint.makes), dict(joint.needs)
    for k, (product, before) in enumerate(waiting(nodes)):
        for i, n in enumerate(before):
            token = Storage(-1 - k * len(nodes) - i, n, n, 0, None)
            makes[n] = (*makes.get(n, ()), token)
            needs[product] = (*needs.get(product, ()), token)
    return attrs.evolve(joint, makes=makes, needs=needs)


@attrs.define(eq=False)
class _Loop:
    """A value that is written, and the operators that are written into it. outer: elements of its
    result; inner: elements that are reduced into each."""

    at: int
    nodes: list[fx.Node]
    makes: tuple[Storage, ...]
    reads: dict[int, Storage]
    outer: int
    inner: int

    @property
    def reduces(self) -> bool:
        return self.inner > 1


@attrs.frozen(eq=False)
class _Inlined:
    """A value that no memory holds: what its readers read instead, and how much work it is."""

    nodes: tuple[fx.Node, ...]
    reads: dict[int, Storage]
    work: int
    heavy: bool


@attrs.frozen(eq=False)
class _Fact:
    """What a node is for a compiler that fuses, whatever runs beside it. numbers: constants among its arguments. outer,
    inner: as of a `_Loop`; added: as `_added_product` has it."""

    fusible: bool
    heavy: bool
    reduces: bool
    numbers: int
    outer: int
    inner: int
    added: tuple[fx.Node, fx.Node] | None

    @classmethod
    def of(cls, n: fx.Node) -> _Fact:
        reduces, outer = is_a(n, "reduction"), elements(n)
        whole = max((elements(a) for a in n.all_input_nodes), default=outer) if reduces else outer
        numbers = sum(isinstance(a, (int, float)) for a in n.args)
        inner = max(1, whole // max(1, outer))
        return cls(is_fusible(n), is_a(n, "heavy"), reduces, numbers, outer, inner, _added_product(n))


def _facts(joint: Joint) -> dict[fx.Node, _Fact]:
    """Of all nodes of a joint graph, worked out once for all its schedules."""
    if "fuse" not in joint.facts:
        joint.facts["fuse"] = {n: _Fact.of(n) for n in joint.nodes if n.op == "call_function"}
    return joint.facts["fuse"]


class _Values:
    """Which storages of a program are written, and which are worked out where they are read."""

    def __init__(self, joint: Joint, nodes: Sequence[fx.Node], keep: Collection[int], device: Place):
        self.joint, self.keep, self.device = joint, keep, device
        self.nodes = list(nodes)
        self.readers: dict[int, list[fx.Node]] = {}
        for n in self.nodes:
            if not is_view(joint, n):
                for s in joint.needs.get(n, ()):
                    self.readers.setdefault(s.id, []).append(n)
        self.inlined: dict[int, _Inlined] = {}
        self.loops: list[_Loop] = []
        self.others: list[tuple[int, Run]] = []
        self.facts = _facts(joint)
        self.added = dict(filter(None, (self.facts[n].added for n in self.nodes)))
        self.products = {mm: add for add, mm in self.added.items()}
        for i, n in enumerate(self.nodes):
            self._see(i, n)

    def _see(self, i: int, n: fx.Node) -> None:
        made = tuple(s for s in self.joint.makes.get(n, ()) if not s.is_input)
        if n in self.added:
            self.others.append((i, _with_product(self.joint, n, self.added[n])))
        if n in self.added or n in self.products or is_view(self.joint, n):
            return
        fact = self.facts[n]
        if not made or not fact.fusible:
            self.others.append((i, one(self.joint, n, self.device, copied(n))))
            return
        sources = self.joint.needs.get(n, ())
        inner = [self.inlined[s.id] for s in sources if s.id in self.inlined]
        reads = {s.id: s for s in sources if s.id not in self.inlined}
        for x in inner:
            reads.update(x.reads)
        nodes = (*dict.fromkeys(m for x in inner for m in x.nodes), n)
        work = 1 + fact.numbers + sum(x.work for x in inner) + sum(s.id not in self.inlined for s in sources)
        heavy = fact.heavy or any(x.heavy for x in inner)
        if not fact.reduces and not self._is_written(made, len(reads), work, heavy):
            self.inlined[made[0].id] = _Inlined(nodes, reads, work, heavy)
            return
        self.loops.append(_Loop(i, list(nodes), made, reads, fact.outer, fact.inner))

    def _is_written(self, made, reads: int, work: int, heavy: bool) -> bool:
        """`run_node`: what a reader needs in memory, what leaves the program, what is much work twice."""
        if len(made) > 1 or made[0].id in self.keep:
            return True
        readers = self.readers.get(made[0].id, ())
        if any(not self.facts[r].fusible or r in self.added for r in readers):
            return True
        shared = len(readers) > 1
        if shared and (reads > READS_OF_A_SHARED_VALUE or work > OPERATIONS[self.device]):
            return True
        if shared and heavy and self.device == "cpu":
            return True
        return reads > READS[self.device] or work > OPERATIONS_AT_ALL

    def runs(self, kernels: list[list[_Loop]]) -> tuple[Run, ...]:
        of = {s.id: k for k, loops in enumerate(kernels) for x in loops for s in x.makes}
        outside = {s.id for _, run in self.others for s in run.needs} | set(self.keep)
        for k, loops in enumerate(kernels):
            outside |= {i for x in loops for i in x.reads if of.get(i) != k}
        placed = list(self.others)
        for loops in kernels:
            made = {s.id: s for x in loops for s in x.makes}
            needs = {i: s for x in loops for i, s in x.reads.items() if i not in made}
            left = tuple(s for i, s in made.items() if i in outside)
            nodes = tuple(dict.fromkeys(n for x in loops for n in x.nodes))
            inside = sum(s.bytes for i, s in made.items() if i not in outside)
            run = Run(nodes, tuple(needs.values()), left, _over(loops, left), inside, kernel=True)
            placed.append((min(x.at for x in loops), run))
        return tuple(r for _, r in sorted(placed, key=lambda item: item[0]))


def is_fusible(n: fx.Node) -> bool:
    """Whether a compiler writes the operator's loops itself."""
    if n.op != "call_function" or kinds.is_attention(n) or kinds.is_collective(n) or kinds.is_matmul(n):
        return False
    if is_a(n, "scatter"):  # onto a constant: a comparison of indices (`fx_passes/joint_graph.py`)
        return is_a(n.args[0], "full") and not isinstance(n.args[-1], fx.Node)
    return is_a(n, "loop", "pointwise")


def copied(n: fx.Node) -> int:
    """Bytes of the operands that are copied for a kernel of a library: repeated ones (`expand`) have no strides
    that it is given."""
    vals = (a.meta.get("val") for a in n.all_input_nodes)
    return sum(
        example_size(v.numel()) * v.dtype.itemsize
        for v in vals
        if isinstance(v, torch.Tensor)
        and any(st == 0 and size > 1 for st, size in zip(v.stride(), v.shape, strict=True))
    )


def _added_product(n: fx.Node) -> tuple[fx.Node, fx.Node] | None:
    """An addition to a product that nothing else reads, and that product: one call (`post_grad.py`, `addmm`)."""
    if not is_a(n, "add") or n.kwargs or len(n.args) != 2:
        return None
    for a in n.args:
        while isinstance(a, fx.Node) and is_a(a, "permute") and len(a.users) == 1:
            a = a.args[0]
        if isinstance(a, fx.Node) and is_a(a, "plus") and len(a.users) == 1:
            return n, a
    return None


def _with_product(joint: Joint, add: fx.Node, mm: fx.Node) -> Run:
    own = {s.id for s in joint.makes[mm]}
    needs = {s.id: s for n in (mm, add) for s in joint.needs[n] if s.id not in own}
    makes = (*joint.makes[add], *(s for s in joint.makes[mm] if not s.bytes))
    return Run((mm, add), tuple(needs.values()), makes)


def is_view(joint: Joint, n: fx.Node) -> bool:
    """Whether a node names a value and makes none: a view, an item of a tuple, a wait, a size."""
    return n not in joint.makes


def elements(n: fx.Node) -> int:
    """Elements of a node's value, the first where it has several."""
    val = n.meta.get("val")
    val = val[0] if isinstance(val, (tuple, list)) else val
    return math.prod(map(example_size, val.shape)) if isinstance(val, torch.Tensor) else 1


def _over(loops: list[_Loop], left: tuple[Storage, ...]) -> tuple[tuple[Storage, Storage], ...]:
    """`decide_inplace_update`: what one loop alone reads may be written over by it, if alike in bytes and order."""
    there = {s.id for s in left}
    counts: dict[int, int] = {}
    for x in loops:
        for i in x.reads:
            counts[i] = counts.get(i, 0) + 1
    pairs, taken = [], set()
    for x in loops:
        for s in x.makes:
            if s.id not in there or x.reduces:
                continue
            for i, r in x.reads.items():
                if counts[i] == 1 and i not in taken and r.bytes == s.bytes and _alike(r, s):
                    pairs.append((s, r))
                    taken.add(i)
                    break
    return tuple(pairs)


def _alike(a: Storage, b: Storage) -> bool:
    x, y = a.head.meta.get("val"), b.head.meta.get("val")
    return isinstance(x, torch.Tensor) and isinstance(y, torch.Tensor) and x.dtype == y.dtype


class _Kernels:
    """Operators and loops on their way to kernels: `parts[i]`, in the program's order; `of[i]`, the
    kernel that it is in, by that kernel's first part; before, after: the kernels that one reads of, and that read of
    it."""

    def __init__(self, loops: list[_Loop], others: list[tuple[int, Run]]):
        parts = [(x.at, x, x.makes, x.reads) for x in loops]
        parts += [(i, None, run.makes, {s.id: s for s in run.needs}) for i, run in others]
        parts.sort(key=lambda p: p[0])
        self.loops = [loop for _, loop, _, _ in parts]
        self.reduces = [loop is not None and loop.reduces for loop in self.loops]  # by kernel, like `domains`
        self.domains = [set() if x is None else {(x.outer, x.inner)} for x in self.loops]
        self.apart: dict[tuple[int, int], tuple[int, int]] = {}  # pairs that can't be one, at these numbers of members
        made = {s.id: k for k, (_, _, makes, _) in enumerate(parts) for s in makes}
        self.before = [{made[i] for i in reads if i in made} - {k} for k, (_, _, _, reads) in enumerate(parts)]
        self.after: list[set[int]] = [set() for _ in parts]
        for k, before in enumerate(self.before):
            for source in before:
                self.after[source].add(k)
        self.of = list(range(len(parts)))
        self.members = {k: [k] for k in range(len(parts))}

    def joined(self) -> list[list[_Loop]]:
        for _ in range(10):
            changed = False
            for a, b in self._pairs():
                a, b = sorted((self.of[a], self.of[b]))
                if a != b and self._may_join(a, b):
                    self._merge(a, b)
                    changed = True
            if not changed:
                break
        return [[self.loops[m] for m in ms] for ms in self.members.values() if self.loops[ms[0]] is not None]

    def _may_join(self, a: int, b: int) -> bool:
        """Whether two kernels run over one domain, and none has to run between them. Where they may not, they may not as
        long as they stay what they are: others that become one leave what has to run between them there."""
        sizes = len(self.members[a]), len(self.members[b])
        if self.apart.get((a, b)) == sizes:
            return False
        joins = self._fits(a, b) and not self._waits(a, b) and not self._waits(b, a)
        if not joins:
            self.apart[a, b] = sizes
        return joins

    def _pairs(self) -> list[tuple[int, int]]:
        """Pairs of kernels that share values, the best first (`score_fusion`)."""
        touch: dict[int, list[int]] = {}
        bytes_of: dict[int, int] = {}
        for k, ms in self.members.items():
            if self.loops[k] is None:
                continue
            for s in {s.id: s for m in ms for s in (*self.loops[m].reads.values(), *self.loops[m].makes)}.values():
                touch.setdefault(s.id, []).append(k)
                bytes_of[s.id] = s.bytes
        shared: dict[tuple[int, int], int] = {}
        for i, ks in touch.items():
            for x, a in enumerate(ks):
                for b in ks[x + 1 : x + LOOPS_OF_A_KERNEL]:
                    shared[a, b] = shared.get((a, b), 0) + bytes_of[i]
        return sorted(
            shared, key=lambda ab: (-(self.reduces[ab[0]] == self.reduces[ab[1]]), -shared[ab], ab[1] - ab[0], ab)
        )

    def _fits(self, a: int, b: int) -> bool:
        """Whether two kernels run over one domain: alike, or the one over what the other reduces or leaves."""
        if len(self.members[a]) + len(self.members[b]) > LOOPS_OF_A_KERNEL:
            return False
        return all(_match(x, y) for x in self.domains[a] for y in self.domains[b])

    def _waits(self, a: int, b: int) -> bool:
        """Whether a kernel outside needs `a` and is needed by `b`."""
        first, seen = self.members[a][0], {a, b}
        stack = list(self.before[b] - seen)
        while stack:
            k = stack.pop()
            if k in seen or self.members[k][-1] < first:
                continue
            seen.add(k)
            if a in self.before[k]:
                return True
            stack += self.before[k] - seen
        return False

    def _merge(self, a: int, b: int) -> None:
        self.members[a] = sorted(self.members[a] + self.members.pop(b))
        for m in self.members[a]:
            self.of[m] = a
        self.reduces[a] |= self.reduces[b]
        self.domains[a] |= self.domains[b]
        for ways, back in ((self.before, self.after), (self.after, self.before)):
            for k in ways[b]:
                back[k].discard(b)
                back[k].add(a)
            ways[a] = (ways[a] | ways[b]) - {a, b}
        self.before[a].discard(a), self.after[a].discard(a)


def _match(x: tuple[int, int], y: tuple[int, int]) -> bool:
    """Whether loops over (elements, elements that are reduced into each) run over one domain."""
    (outer, inner), (other, reduced) = x, y
    if inner > 1 and reduced > 1:
        return x == y
    if inner > 1:
        return other in (outer, outer * inner)
    return outer == other or (reduced > 1 and outer == other * reduced)
