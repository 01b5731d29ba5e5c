"""Projections that a table cannot express: views, permutations, indexing, einsum."""

from __future__ import annotations

from collections.abc import Callable

import attrs
import torch

from ..sharding import Size
from .call import Call, Mismatch, is_tensor
from .projection import Projection
from .refine import all_whole, refine


def whole(call: Call) -> Projection:
    """Nothing may be split."""
    return all_whole(*call.operands, *call.results, operands=len(call.operands))


def view(call: Call) -> Projection:
    """The same elements in the same order under another shape."""
    refined = refine(call.operands[0], call.results[0])
    rest = all_whole(*call.operands[1:], operands=len(call.operands) - 1)
    return attrs.evolve(join(refined, rest), movement=True, linear=linear_in_all(call))


def join(a: Projection, b: Projection) -> Projection:
    """`a` with the operands of `b`, whose factors are numbered after its own."""
    n = len(a.sizes)
    moved = tuple(tuple(tuple(f + n for f in dim) for dim in dims) for dims in b.operands)
    return attrs.evolve(
        a,
        operands=a.operands + moved,
        sizes=a.sizes + b.sizes,
        kinds=a.kinds + b.kinds,
        names=a.names + tuple(f"w{i + n}" for i in range(len(b.sizes))),
    )


def linear_in_all(call: Call) -> tuple[frozenset[int], ...]:
    """Linear in the first operand, where its values can be summed."""
    return (frozenset({0}),) if call.floating and call.floating[0] and call.floating_results else ()


def permute(call: Call) -> Projection:
    """Dims in another order, which is read off a probe whose sizes are all different."""
    (shape,) = call.operands
    probe = torch.empty([i + 2 for i in range(len(shape))], device="meta")
    after = call.target(probe, *call.args[1:], **call.kwargs).shape
    order = [n - 2 for n in after]
    ids = {d: i for i, d in enumerate(d for d in range(len(shape)) if shape[d] != 1)}
    dims = [(ids[d],) if d in ids else () for d in range(len(shape))]
    return Projection(
        (tuple(dims),),
        (tuple(dims[d] for d in order),),
        tuple(shape[d] for d in ids),
        ("pass",) * len(ids),
        tuple(f"*{d}" for d in ids),
        movement=True,
        linear=linear_in_all(call),
    )


def repeat(call: Call) -> Projection:
    """`repeat` and `tile`: every result dim is (copies, dim); new dims on the left are copies alone."""
    (before,), (after,) = call.operands, call.results
    copies = call.named.get("repeats", call.named.get("dims"))
    copies = [1] * (len(after) - len(copies)) + list(copies)  # `tile` may name the last dims only
    sizes: list[Size] = []
    own: list[tuple[int, ...]] = []
    out: list[tuple[int, ...]] = []

    def factor(size: Size) -> tuple[int, ...]:
        if size == 1:
            return ()
        sizes.append(size)
        return (len(sizes) - 1,)

    padded = [1] * (len(after) - len(before)) + list(before)
    for n, times in zip(padded, copies, strict=True):
        if not isinstance(times, int):
            raise Mismatch("it repeats a symbolic number of times")
        copy, kept = factor(times), factor(n)
        own.append(kept)
        out.append(copy + kept)
    if 0 in after:
        return whole(call)
    names = tuple(f"f{i}" for i in range(len(sizes)))
    return Projection(
        (tuple(own[len(after) - len(before) :]),), (tuple(out),), tuple(sizes), ("pass",) * len(sizes), names,
        movement=True, linear=linear_in_all(call),
    )  # fmt: skip


def interleave(call: Call) -> Projection:
    """`repeat_interleave`: the repeated dim of the result is (dim, copies)."""
    (before,), (after,) = call.operands, call.results
    dim, times = call.named["dim"], call.named["repeats"]
    if dim is None or not isinstance(times, int):
        return whole(call)
    at, names = dim % len(before), [f"*{d}" for d in range(len(before))]
    letters = Letters()
    operand = letters.dims(names, before)
    result = list(operand)
    if times > 1:
        letters.sizes["copies"] = times
        result[at] = (*operand[at], len(letters.sizes) - 1)
    if 0 in after:
        return whole(call)
    return letters.projection((operand,), (tuple(result),), movement=True, linear=linear_in_all(call))


def sized(call: Call) -> Projection:
    """A new tensor of given sizes: it may be made in parts; operands only lend dtype and device."""
    projection = all_whole(*call.operands, *call.results, operands=len(call.operands))
    made = {f for dims in projection.results for dim in dims for f in dim}
    kinds = tuple("pass" if f in made and len(call.results) == 1 else k for f, k in enumerate(projection.kinds))
    return attrs.evolve(projection, kinds=kinds)


@attrs.define
class Letters:
    """Factors by name, each with a size and a kind, numbered as they are met."""

    sizes: dict[str, Size] = attrs.field(factory=dict)
    kinds: dict[str, str] = attrs.field(factory=dict)

    def dims(self, names: list[str], shape: tuple[Size, ...]) -> tuple[tuple[int, ...], ...]:
        """A tensor's dims; a dim of size 1 has no factor."""
        for name, n in zip(names, shape, strict=True):
            if n != 1:
                self.sizes.setdefault(name, n)
        order = list(self.sizes)
        return tuple(() if n == 1 else (order.index(name),) for name, n in zip(names, shape, strict=True))

    def projection(self, operands: tuple, results: tuple, **more) -> Projection:
        kinds = tuple(self.kinds.get(n, "pass") for n in self.sizes)
        return Projection(operands, results, tuple(self.sizes.values()), kinds, tuple(self.sizes), **more)


def index(call: Call) -> Projection:
    """`x[i, None, j]`: indexed dims are whole, the dims of the indices and the others pass."""
    indices = call.named["indices"]
    if any(is_tensor(i) and i.dtype in (torch.bool, torch.uint8) for i in indices):
        return whole(call)
    source, places = call.operands[0], [d for d, i in enumerate(indices) if i is not None]
    wide = max((len(shape) for shape in call.operands[1:]), default=0)
    drawn = [f"i{k}" for k in range(wide)]
    kept = [f"*{d}" for d in range(len(source)) if d not in places]
    adjacent = places == list(range(places[0], places[0] + len(places)))
    at = places[0] if adjacent else 0
    drawn_by = tuple(range(1, len(call.operands)))
    letters = Letters(kinds={f"*{d}": "whole" for d in places})
    operands = [letters.dims([f"*{d}" for d in range(len(source))], source)]
    operands += [letters.dims(drawn[wide - len(shape) :], shape) for shape in call.operands[1:]]
    result = letters.dims(kept[:at] + drawn + kept[at:], call.results[0])
    return letters.projection(tuple(operands), (result,), linear=linear_in_all(call), saves=drawn_by)


def lookup(call: Call) -> Projection:
    """`index_select`, `gather`: the dim that is looked up is whole in the source, and another one in the result.

    `gather` may leave out the ends of other dims: those are whole.
    """
    source, index = call.operands
    if not source:
        return whole(call)
    dim = call.named["dim"] % len(source)
    names = [f"*{d}" for d in range(len(source))]
    letters = Letters(kinds={names[dim]: "whole"})
    looked = [f"{n}'" if d == dim else n for d, n in enumerate(names)]
    places = looked[dim : dim + len(index)]
    gathers = call.target is torch.ops.aten.gather.default
    if gathers:
        short = [d for d in range(len(source)) if d != dim and source[d] != index[d]]
        looked = places = [f"{n}'" if d in short or d == dim else n for d, n in enumerate(names)]
        letters.kinds |= {n: "whole" for d in short for n in (names[d], looked[d])}
    operands = (letters.dims(names, source), letters.dims(places, index))
    return letters.projection(
        operands,
        (letters.dims(looked, call.results[0]),),
        linear=linear_in_all(call),
        saves=(0, 1) if gathers else (1,),
    )


def einsum(call: Call) -> Projection:
    """`ij,jk->ik`: letters are factors; one that the result lacks is summed."""
    text = call.named["equation"].replace(" ", "")
    inputs, _, output = text.partition("->")
    terms = inputs.split(",")
    if "->" not in text:
        letters_in = [c for t in terms for c in t.replace("...", "")]
        output = ("..." if "..." in inputs else "") + "".join(c for c in sorted(letters_in) if letters_in.count(c) == 1)
    wide = max((len(s) - len(t) + 3 for t, s in zip(terms, call.operands, strict=True) if "..." in t), default=0)
    names = [spelled(t, len(s), wide) for t, s in zip(terms, call.operands, strict=True)]
    out = spelled(output, len(call.results[0]), wide)
    letters = Letters(kinds={n: "reduce" for term in names for n in term if n not in out})
    letters.kinds |= {n: "whole" for term in names for n in term if term.count(n) > 1}
    operands = tuple(letters.dims(n, s) for n, s in zip(names, call.operands, strict=True))
    results = (letters.dims(out, call.results[0]),)
    linear = tuple(frozenset({i}) for i in range(len(names))) if call.floating_results else ()
    return letters.projection(
        operands, results, linear=linear, saves=tuple(range(len(names))) if len(names) > 1 else ()
    )


def spelled(term: str, rank: int, wide: int) -> list[str]:
    """The letters of a term, its ellipsis spelled out and aligned right."""
    if "..." not in term:
        return list(term)
    before, after = term.split("...")
    n = rank - len(before) - len(after)
    return [*before, *(f"*{wide - n + i}" for i in range(n)), *after]


TABLE: dict[str, Callable[[Call], Projection]] = {
    "whole": whole,
    "view": view,
    "permute": permute,
    "repeat": repeat,
    "interleave": interleave,
    "sized": sized,
    "index": index,
    "lookup": lookup,
    "einsum": einsum,
}
