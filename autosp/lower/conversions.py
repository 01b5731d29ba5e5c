"""Changes of placement, each with its backward: with `mean_over`, the only calls of a local graph that communicate."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from ..sharding import Coordinate, Placement, comm, transition
from ..sharding.transitions import Action

_BYTES = frozenset(
    getattr(torch, name)
    for name in ("bool", "float8_e4m3fn", "float8_e5m2", "float8_e4m3fnuz", "float8_e5m2fnuz", "float8_e8m0fnu")
)


def _run(step: Action, xs: list, srcs, dsts, at: Coordinate) -> list[torch.Tensor]:
    """One step on tensors that travel together. Complex numbers travel as pairs of real ones, a last dim more that no
    split names: collectives know none, and every step here is linear over the reals. What only moves and has no
    arithmetic of its own travels as bytes."""
    if xs[0].dtype in _BYTES and not step.wire.sums:
        dtype, moved = xs[0].dtype, [x.view(torch.uint8) for x in xs]
        return [y.view(dtype) for y in step.run(moved, srcs, dsts, at)]
    numbers = [x.is_complex() for x in xs]  # beside real ones of the same width
    if any(numbers):
        pairs = [torch.view_as_real(x.resolve_conj()) if z else x for x, z in zip(xs, numbers, strict=True)]
        outputs = step.run(pairs, srcs, dsts, at)
        return [_complex(y) if z else y for y, z in zip(outputs, numbers, strict=True)]
    return step.run(xs, srcs, dsts, at)


def _complex(pairs: torch.Tensor) -> torch.Tensor:
    return torch.view_as_complex(pairs.contiguous())


class _Convert(torch.autograd.Function):
    @staticmethod
    def forward(ctx, row, where, *xs):
        ctx.autosp = row, where
        return tuple(_run(row.forward, list(xs), *where))

    @staticmethod
    def backward(ctx, *grads):
        row, where = ctx.autosp
        return None, None, *_run(row.backward, list(grads), *where)


def convert(
    xs: Sequence[torch.Tensor], srcs: Sequence[Placement], dsts: Sequence[Placement], at: Coordinate, diff: bool
) -> tuple[torch.Tensor, ...]:
    """Tensors brought from one placement each to another, on one axis: they travel in one message.

    The forward and the backward are in the table (`autosp.sharding.transitions`). diff: whether gradients flow.
    """
    (row,) = {transition(src, dst) for src, dst in zip(srcs, dsts, strict=True)}  # what travels together changes alike
    where = (srcs, dsts, at)
    if not diff:
        return tuple(_run(row.forward, list(xs), *where))
    return _Convert.apply(row, where, *xs)


class _ScaleGradient(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, factor):
        ctx.factor = factor
        return x.view_as(x)

    @staticmethod
    def backward(ctx, grad):  # pyrefly: ignore[bad-override]
        return grad * ctx.factor, None


def scale_gradient(x: torch.Tensor, factor: float) -> torch.Tensor:
    """`x`; its gradient is multiplied by `factor` (what an engine divides by, given back)."""
    return _ScaleGradient.apply(x, factor)


class _MeanOver(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, group, size):
        return comm.all_reduce(x if x.is_floating_point() else x.double(), group) / size

    @staticmethod
    def backward(ctx, grad):  # pyrefly: ignore[bad-override]
        return grad, None, None


def mean_over(x: torch.Tensor, group: str, size: int) -> torch.Tensor:
    """The mean of `x` over a data-parallel group. Its gradient is passed on as it is: the mean of
    gradients over that group is its engine's."""
    return _MeanOver.apply(x, group, size)
