"""A view in factors: the common refinement of the shape before and the shape after."""

from __future__ import annotations

from math import gcd

import attrs
import sympy

from ..sharding import Size, as_size, divide
from .projection import Projection
from .strategies import product


@attrs.define
class Side:
    """One shape being cut: the dims that are left, and the factors that each dim has been given."""

    sizes: list[Size]
    dims: list[list[int]]
    at: int = 0
    rest: Size = 1

    def open(self) -> bool:
        """Move to the next dim with anything left of it. False at the end."""
        while self.rest == 1 and self.at < len(self.sizes):
            self.rest = self.sizes[self.at]
            self.at += self.rest == 1
        return self.rest != 1

    def take(self, factor: int, size: Size) -> None:
        """Cut the outermost part of the current dim off, as a factor."""
        self.dims[self.at].append(factor)
        self.rest = divide(self.rest, size)  # pyrefly: ignore[bad-assignment]  # a common divisor
        self.at += self.rest == 1

    def ahead(self) -> list[Size]:
        """What is left, dim by dim."""
        return [self.rest, *self.sizes[self.at + 1 :]]


def refine(before: tuple[Size, ...], after: tuple[Size, ...]) -> Projection:
    """The projection of a view. A group that has no common refinement is whole on both sides."""
    sizes: list[Size] = []
    kinds: list[str] = []
    left, right = (Side(list(s), [[] for _ in s]) for s in (before, after))

    def factor(size: Size, kind: str) -> int:
        sizes.append(size)
        kinds.append(kind)
        return len(sizes) - 1

    if 0 in before or 0 in after:
        return all_whole(before, after)
    while left.open() and right.open():
        size = common(left.rest, right.rest)
        if size != 1:
            f = factor(size, "pass")
            left.take(f, size)
            right.take(f, size)
            continue
        i, j = group(left.ahead(), right.ahead())
        for side, n in ((left, i), (right, j)):
            for piece in side.ahead()[:n]:
                side.open()
                if piece != 1:
                    side.take(factor(piece, "whole"), piece)
    for side in (left, right):
        while side.open():
            side.take(factor(side.rest, "whole"), side.rest)
    names = tuple(f"{'f' if k == 'pass' else 'w'}{i}" for i, k in enumerate(kinds))
    return Projection((dims(left),), (dims(right),), tuple(sizes), tuple(kinds), names)


def dims(side: Side) -> tuple[tuple[int, ...], ...]:
    """A side's dims in factors."""
    return tuple(map(tuple, side.dims))


def common(a: Size, b: Size) -> Size:
    """The largest outermost part that both sizes share, 1 for none."""
    if isinstance(a, int) and isinstance(b, int):
        return gcd(a, b)
    if divide(a, b) is not None:
        return b
    if divide(b, a) is not None:
        return a
    return as_size(sympy.gcd(sympy.sympify(a), sympy.sympify(b)))


def group(left: list[Size], right: list[Size]) -> tuple[int, int]:
    """The fewest leading dims of both sides that hold equally many elements."""
    for total in range(2, len(left) + len(right) + 1):
        for i in range(1, min(total, len(left) + 1)):
            j = total - i
            if j <= len(right) and product(left[:i]) == product(right[:j]):
                return i, j
    return len(left), len(right)


def all_whole(*shapes: tuple[Size, ...], operands: int = 1) -> Projection:
    """A projection in which every dim of every tensor is whole by itself."""
    sizes = [n for shape in shapes for n in shape if n != 1]
    numbers = iter(range(len(sizes)))
    tensors = [tuple(() if n == 1 else (next(numbers),) for n in shape) for shape in shapes]
    return Projection(
        tuple(tensors[:operands]),
        tuple(tensors[operands:]),
        tuple(sizes),
        ("whole",) * len(sizes),
        tuple(f"w{i}" for i in range(len(sizes))),
    )
