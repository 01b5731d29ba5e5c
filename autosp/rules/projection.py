"""A rule bound to one call: every dim of every tensor written in factors."""

from __future__ import annotations

from typing import Literal

import attrs

from ..sharding import Size

FactorKind = Literal["pass", "reduce", "whole"]
Dims = tuple[tuple[int, ...], ...]  # per dim, the factors that make it up, outermost first; () is a size-1 dim


@attrs.frozen
class Projection:
    """One call in factors.

    operands, results: per tensor (in the order of `tensor_args(call)` / of the outputs), its dims.
    sizes, kinds: per factor. `pass`: may be split, every result that has it is split alike.
      `reduce`: may be split, results are then partial sums. `whole`: may not be split.
    once: operands added once (a bias under a split reduce): they are needed as partial sums.
    linear: sets of operands in which the call is jointly linear, the others held fixed: partial
      sums of exactly these give a partial sum of the result.
    movement: only moves or casts data; running it whole is no replicated work, nothing is saved for it.
    saves: operand indices whose values its backward needs; -1 means the result.
    random: draws random numbers: shards must draw differently, replicas alike.
    partial: (factor, result) pairs: the result is a partial sum where that `pass` factor is split. A
      result that neither has a split factor nor is a sum then is equal on all ranks.
    nonlinear: its backward is not linear in the gradient (an autograd.Function's own): never run on
      gradients that are partial sums.
    """

    operands: tuple[Dims, ...]
    results: tuple[Dims, ...]
    sizes: tuple[Size, ...]
    kinds: tuple[FactorKind, ...]
    names: tuple[str, ...]
    once: frozenset[int] = frozenset()
    linear: tuple[frozenset[int], ...] = ()
    movement: bool = False
    saves: tuple[int, ...] = ()
    rule: str = ""
    random: bool = False
    partial: frozenset[tuple[int, int]] = frozenset()
    nonlinear: bool = False
