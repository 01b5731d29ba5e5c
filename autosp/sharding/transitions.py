"""Every change of placement on one axis, in one table: what runs forward and backward, and what it sends.

The pairs follow the type system of meta-pytorch/spmd_types (docs/design.md): the backward of a change from A to B is
the change from the kind of B's gradient to the kind of A's.

Bytes that a rank sends of a value of B bytes over P ranks, as in Thakur, Rabenseifner and Gropp, "Optimization of
Collective Communication Operations in MPICH" (2005), section 3: all-to-all B(P-1)/P^2, all-gather and reduce-scatter
B(P-1)/P, all-reduce 2B(P-1)/P. Each waits for the other ranks once.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import attrs
import torch
from torch import Tensor

from . import comm, moves
from .mesh import Coordinate
from .placement import Placement, Split

Run = Callable[[list[Tensor], Sequence[Placement], Sequence[Placement], Coordinate], list[Tensor]]


@attrs.frozen
class Wire:
    """A kind of step. sent: the bytes that a rank sends of a value's, over so many ranks; communicates: whether it
    waits for other ranks; sums: whether it adds numbers of several ranks."""

    kind: str
    sent: Callable[[float, int], float] = lambda size, p: 0.0
    communicates: bool = True
    sums: bool = False


ALL_TO_ALL = Wire("all_to_all", lambda size, p: size * (p - 1) / p**2)
ALL_GATHER = Wire("all_gather", lambda size, p: size * (p - 1) / p)
REDUCE_SCATTER = Wire("reduce_scatter", lambda size, p: size * (p - 1) / p, sums=True)
ALL_REDUCE = Wire("all_reduce", lambda size, p: 2 * size * (p - 1) / p, sums=True)
SLICE = Wire("slice", communicates=False)
NONE = Wire("none", communicates=False)


@attrs.frozen
class Action:
    """One way of a change: its kind, and what runs, `run(tensors, sources, targets, coordinate)`."""

    wire: Wire
    run: Run

    @property
    def kind(self) -> str:
        return self.wire.kind


@attrs.frozen
class Transition:
    """A change of placement. together: whether tensors may travel in one message."""

    forward: Action
    backward: Action
    together: bool = False


def _each(of: Callable[[Tensor, Placement, Coordinate], Tensor], targets: bool = True) -> Run:
    """A step on each tensor by itself, with its target or its source."""
    return lambda xs, srcs, dsts, at: [of(x, s, at) for x, s in zip(xs, dsts if targets else srcs, strict=True)]


def _nothing(x: Tensor) -> Tensor:
    """Zeros that depend on `x`. A constant gradient would be completed in the forward, on these ranks alone:
    a partitioner puts there what no gradient reaches."""
    return torch.where(
        torch.ones((), dtype=torch.bool, device=x.device), torch.zeros((), dtype=x.dtype, device=x.device), x
    )


_EXCHANGE = Action(ALL_TO_ALL, moves.exchange)
_EXCHANGE_BACK = Action(ALL_TO_ALL, lambda xs, srcs, dsts, at: moves.exchange(xs, dsts, srcs, at))
_GATHER_SOURCE = Action(ALL_GATHER, lambda xs, srcs, dsts, at: moves.gather(xs, srcs, at))
_GATHER_TARGET = Action(ALL_GATHER, lambda xs, srcs, dsts, at: moves.gather(xs, dsts, at))
_SCATTER_SOURCE = Action(REDUCE_SCATTER, lambda xs, srcs, dsts, at: moves.scatter_sum(xs, srcs, at))
_SCATTER_TARGET = Action(REDUCE_SCATTER, lambda xs, srcs, dsts, at: moves.scatter_sum(xs, dsts, at))
_REDUCE = Action(ALL_REDUCE, _each(lambda x, _, at: comm.all_reduce(x, at.group)))
_CUT_SOURCE = Action(SLICE, _each(moves.cut, targets=False))
_CUT_TARGET = Action(SLICE, _each(moves.cut))
_PAD_TARGET = Action(SLICE, _each(moves.pad))
_KEEP = Action(NONE, _each(lambda x, _, at: x.view_as(x)))
_ONLY_FIRST = Action(NONE, _each(lambda x, _, at: x.view_as(x) if at.rank == 0 else _nothing(x)))
_RECUT = Action(ALL_GATHER, lambda xs, srcs, dsts, at: _CUT_TARGET.run(moves.gather(xs, srcs, at), srcs, dsts, at))
_RECUT_BACK = Action(ALL_GATHER, lambda xs, srcs, dsts, at: _CUT_SOURCE.run(moves.gather(xs, dsts, at), srcs, dsts, at))

TRANSITIONS: dict[tuple[str, str], Transition] = {
    ("split", "split"): Transition(_EXCHANGE, _EXCHANGE_BACK, together=True),
    ("split", "split of the same dim"): Transition(_RECUT, _RECUT_BACK),
    ("split", "replicate"): Transition(_GATHER_SOURCE, _SCATTER_SOURCE, together=True),
    ("split", "invariant"): Transition(_GATHER_SOURCE, _CUT_SOURCE, together=True),
    ("partial", "replicate"): Transition(_REDUCE, _REDUCE),
    ("partial", "invariant"): Transition(_REDUCE, _KEEP),
    ("partial", "split"): Transition(_SCATTER_TARGET, _GATHER_TARGET),
    ("replicate", "split"): Transition(_CUT_TARGET, _PAD_TARGET),
    ("invariant", "split"): Transition(_CUT_TARGET, _GATHER_TARGET),
    ("invariant", "replicate"): Transition(_KEEP, _REDUCE),
    ("replicate", "invariant"): Transition(_KEEP, _ONLY_FIRST),
    ("replicate", "partial"): Transition(_ONLY_FIRST, _ONLY_FIRST),
    ("invariant", "partial"): Transition(_ONLY_FIRST, _KEEP),
}


def row_key(src: Placement, dst: Placement) -> tuple[str, str]:
    """The row of a change in the table. Two splits of one dim are gathered, and cut anew."""
    if isinstance(src, Split) and isinstance(dst, Split) and src.dim == dst.dim:
        return "split", "split of the same dim"
    return src.word, dst.word


STAY = Transition(_KEEP, _KEEP)


def transition(src: Placement, dst: Placement) -> Transition | None:
    """The change from one placement to another; None where there is none."""
    return STAY if src == dst else TRANSITIONS.get(row_key(src, dst))
