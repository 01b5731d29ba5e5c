"""How a tensor lies over one mesh axis: the four kinds with those of their gradients, and the arithmetic of a split.

A dim of size `outer * units * inner` is split by dealing its `units` to the ranks in order, sizes
differing by at most one. `[seq@sp]` is (1, seq, 1); the merged dim `[(batch seq@sp)]` is
(batch, seq, 1); query heads that must follow their kv heads are (1, kv, group). The kinds and the
kinds of their gradients are those of meta-pytorch/spmd_types (docs/design.md).

Sizes are ints, or sympy expressions where a dim is dynamic.
"""

from __future__ import annotations

import enum
from typing import Any, NamedTuple, TypeAlias

import sympy
import torch

from ..compat.torch import size_expression

Size: TypeAlias = "int | sympy.Expr"


class Kind(enum.Enum):
    """A value that is not split."""

    REPLICATE = "replicate"  # equal on all ranks, used differently by each
    INVARIANT = "invariant"  # equal on all ranks, the same work on each
    PARTIAL = "partial"  # the value is the sum over ranks

    @property
    def word(self) -> str:
        return self.value

    @property
    def dims(self) -> frozenset[int]:
        """The dims that are split."""
        return frozenset()

    @property
    def gradient(self) -> Kind:
        """The kind of the value's gradient (spmd_types, docs/design.md)."""
        return {"replicate": PARTIAL, "partial": REPLICATE, "invariant": INVARIANT}[self.value]

    def __repr__(self) -> str:
        return self.value


REPLICATE, INVARIANT, PARTIAL = Kind.REPLICATE, Kind.INVARIANT, Kind.PARTIAL


class Split(NamedTuple):
    """Dim `dim`, of size `outer * units * inner`, has its units dealt to the ranks in order.

    A tuple, so that one may stand among the arguments of a graph's call, with nodes for its sizes.
    """

    dim: int
    outer: Any
    units: Any
    inner: Any

    @property
    def word(self) -> str:
        return "split"

    @property
    def dims(self) -> frozenset[int]:
        return frozenset((self.dim,))

    @property
    def gradient(self) -> Split:
        """A gradient is split as its value is."""
        return self

    @property
    def size(self) -> Any:
        """Of the whole dim."""
        return self.outer * self.units * self.inner

    def local_size(self, p: int, rank: int) -> Any:
        """The size of the dim on one of `p` ranks."""
        return self.outer * count(self.units, p, rank) * self.inner

    def __repr__(self) -> str:
        parts = f"{self.outer}x" if self.outer != 1 else ""
        parts += f"<{self.units}>"
        parts += f"x{self.inner}" if self.inner != 1 else ""
        return f"split({self.dim}: {parts})"


Placement: TypeAlias = "Kind | Split"


def divide(a: Size, b: Size) -> Size | None:
    """a / b where it is whole for every value of the symbols, else None."""
    if isinstance(a, int) and isinstance(b, int):
        return a // b if b and a % b == 0 else None
    q = sympy.cancel(sympy.sympify(a) / sympy.sympify(b))
    if sympy.fraction(q)[1] != 1:
        return None
    return as_size(q)


def as_size(x: Any) -> Size:
    """An int where `x` is a known number, else a sympy expression. SymInts give their expression."""
    if isinstance(x, torch.SymInt):
        x = size_expression(x)
    if isinstance(x, sympy.Expr):
        x = sympy.expand(x)
        return int(x) if x.is_Integer else x
    return int(x)


def make_split(dim: int, outer: Size, units: Size, inner: Size, p: int) -> Split:
    """The canonical form: where `p` divides `units`, units are as coarse as they can be."""
    if isinstance(units, int) and units % p == 0 and units > 0:
        inner = inner * (units // p)
        units = p
    return Split(dim, as_size(outer), as_size(units), as_size(inner))


def count(units: Any, p: int, rank: int) -> Any:
    """How many of `units` the rank holds: the first `units mod p` ranks hold one more. A SymInt gives a SymInt."""
    n = (units + (p - 1 - rank)) // p
    return n if isinstance(n, torch.SymInt) else as_size(n)


def start(units: Any, p: int, rank: int) -> Any:
    """The first unit that the rank holds."""
    return sum((count(units, p, r) for r in range(rank)), 0)


def local_shape(shape: tuple[Size, ...], placement: Placement, p: int, rank: int) -> tuple[Size, ...]:
    """The shape of the rank's part of a value of global `shape`."""
    if not isinstance(placement, Split):
        return tuple(shape)
    out = list(shape)
    out[placement.dim] = as_size(placement.local_size(p, rank))
    return tuple(out)


def unit_view(x: torch.Tensor, s: Split, units: int) -> torch.Tensor:
    """`x` with its split dim opened into (outer, units, inner)."""
    shape = x.shape
    return x.reshape(*shape[: s.dim], s.outer, units, s.inner, *shape[s.dim + 1 :])


def shard(x: torch.Tensor, placement: Placement, p: int, rank: int) -> torch.Tensor:
    """The part of the whole tensor `x` that the rank holds under a split; `x` itself otherwise."""
    if not isinstance(placement, Split):
        return x
    s = placement
    n, first = count(s.units, p, rank), start(s.units, p, rank)
    part = unit_view(x, s, s.units).narrow(s.dim + 1, first, n)
    return part.reshape(local_shape(tuple(x.shape), s, p, rank))


def assemble(parts: list[torch.Tensor], placement: Placement) -> torch.Tensor:
    """The whole tensor from every rank's part: joined, summed, or the first (all are equal)."""
    if placement is PARTIAL:
        return torch.stack(parts).sum(0)
    if not isinstance(placement, Split):
        return parts[0]
    s, p = placement, len(parts)
    opened = [unit_view(x, s, count(s.units, p, r)) for r, x in enumerate(parts)]
    whole = torch.cat(opened, dim=s.dim + 1)
    shape = parts[0].shape
    return whole.reshape(*shape[: s.dim], s.size, *shape[s.dim + 1 :])
