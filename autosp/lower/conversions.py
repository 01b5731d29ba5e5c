"""Changes of placement, each with its backward: the only calls of a local graph that communicate.

The pairs follow the type system of meta-pytorch/spmd_types (docs/design.md): the gradient of a
split value is split, of a partial one replicate, of a replicate one partial, of an invariant one
invariant; the backward of a change from A to B is the change from B's gradient kind to A's.
"""

from __future__ import annotations

import torch

from . import comm, moves

# forward and backward of (source, target), as names of steps in `_STEPS`. `src` and `dst` say which
# of the two splits the step works on.
TABLE: dict[tuple[str, str], tuple[str, str]] = {
    ("split", "split"): ("exchange", "exchange_back"),
    ("split", "replicate"): ("gather src", "scatter_sum src"),
    ("split", "invariant"): ("gather src", "cut src"),
    ("partial", "replicate"): ("all_reduce", "all_reduce"),
    ("partial", "invariant"): ("all_reduce", "keep"),
    ("partial", "split"): ("scatter_sum dst", "gather dst"),
    ("replicate", "split"): ("cut dst", "pad dst"),
    ("invariant", "split"): ("cut dst", "gather dst"),
    ("invariant", "replicate"): ("keep", "all_reduce"),
    ("replicate", "invariant"): ("keep", "only_first"),
    ("replicate", "partial"): ("only_first", "only_first"),
    ("invariant", "partial"): ("only_first", "keep"),
}


_BYTES = frozenset(
    getattr(torch, name)
    for name in ("bool", "float8_e4m3fn", "float8_e5m2", "float8_e4m3fnuz", "float8_e5m2fnuz", "float8_e8m0fnu")
)


def _step(name: str, xs, srcs, dsts, p, rank, group) -> list[torch.Tensor]:
    """One step on tensors that travel together. Complex numbers travel as pairs of real ones, a last dim more that no
    split names: collectives know none, and every step here is linear over the reals. What only moves and has no
    arithmetic of its own travels as bytes."""
    if xs[0].dtype in _BYTES and name.partition(" ")[0] not in ("scatter_sum", "all_reduce"):
        dtype, moved = xs[0].dtype, [x.view(torch.uint8) for x in xs]
        return [y.view(dtype) for y in _real_step(name, moved, srcs, dsts, p, rank, group)]
    numbers = [x.is_complex() for x in xs]  # beside real ones of the same width
    if any(numbers):
        pairs = [torch.view_as_real(x.resolve_conj()) if z else x for x, z in zip(xs, numbers, strict=True)]
        found = _real_step(name, pairs, srcs, dsts, p, rank, group)
        return [_complex(y) if z else y for y, z in zip(found, numbers, strict=True)]
    return _real_step(name, xs, srcs, dsts, p, rank, group)


def _complex(pairs: torch.Tensor) -> torch.Tensor:
    return torch.view_as_complex(pairs.contiguous())


def _real_step(name: str, xs, srcs, dsts, p, rank, group) -> list[torch.Tensor]:
    kind, _, which = name.partition(" ")
    splits = srcs if which == "src" else dsts
    match kind:
        case "exchange":
            return moves.exchange(xs, srcs, dsts, p, rank, group)
        case "exchange_back":
            return moves.exchange(xs, dsts, srcs, p, rank, group)
        case "gather":
            return moves.gather(xs, splits, p, rank, group)
        case "scatter_sum":
            return moves.scatter_sum(xs, splits, p, rank, group)
        case "all_reduce":
            return [comm.all_reduce(x, group) for x in xs]
        case "cut":
            return [moves.cut(x, s, p, rank) for x, s in zip(xs, splits)]
        case "pad":
            return [moves.pad(x, s, p, rank) for x, s in zip(xs, splits)]
        case "keep":
            return [x.view_as(x) for x in xs]
        case "only_first":
            return [x.view_as(x) if rank == 0 else _nothing(x) for x in xs]
    raise AssertionError(name)


def _nothing(x: torch.Tensor) -> torch.Tensor:
    """Zeros that depend on `x`. A constant gradient would be completed in the forward, on these ranks alone:
    a partitioner puts there what no gradient reaches."""
    return torch.where(
        torch.ones((), dtype=torch.bool, device=x.device), torch.zeros((), dtype=x.dtype, device=x.device), x
    )


class _Convert(torch.autograd.Function):
    @staticmethod
    def forward(ctx, steps, splits, where, *xs):
        ctx.autosp = steps[1], splits, where
        return tuple(_step(steps[0], list(xs), *splits, *where))

    @staticmethod
    def backward(ctx, *grads):
        step, splits, where = ctx.autosp
        return None, None, None, *_step(step, list(grads), *splits, *where)


def convert(xs, kinds: tuple[str, str], srcs, dsts, p: int, rank: int, group: str, diff: bool):
    """Tensors from one kind to another. `srcs` and `dsts` hold the splits, where the kind is one.

    Gives a tuple of tensors: they travel in one message. The backward is in the table above.
    """
    steps = TABLE[kinds]
    splits, where = (list(srcs), list(dsts)), (p, rank, group)
    if not diff:
        return tuple(_step(steps[0], list(xs), *splits, *where))
    return _Convert.apply(steps, splits, where, *xs)


class _ScaleGradient(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, factor):
        ctx.factor = factor
        return x.view_as(x)

    @staticmethod
    def backward(ctx, grad):
        return grad * ctx.factor, None


def scale_gradient(x: torch.Tensor, factor: float) -> torch.Tensor:
    """`x`; its gradient is multiplied by `factor` (what an engine divides by, given back)."""
    return _ScaleGradient.apply(x, factor)


class _MeanOver(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, group, size):
        return comm.all_reduce(x if x.is_floating_point() else x.double(), group) / size

    @staticmethod
    def backward(ctx, grad):
        return grad, None, None


def mean_over(x: torch.Tensor, group: str, size: int) -> torch.Tensor:
    """The mean of `x` over a data-parallel group. Its gradient is passed on as it is: the mean of
    gradients over that group is its engine's."""
    return _MeanOver.apply(x, group, size)
