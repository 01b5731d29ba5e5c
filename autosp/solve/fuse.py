"""Which reshards travel together: all-to-alls none of which waits for another."""

from __future__ import annotations

import torch

from ..layout import Split
from .cost import conversion
from .plan import Change
from .problem import Op, Problem


def group(problem: Problem, changes: tuple[Change, ...], chosen, placements) -> tuple[tuple[Change, ...], ...]:
    """Changes in order of first need; those with the same collective, dtype, differentiability and
    depth (the number of all-to-alls and gathers before them) are one message."""
    depth = _depths(problem, changes, chosen, placements)
    groups: dict[tuple, list[Change]] = {}
    for i, c in enumerate(changes):
        v = problem.values[c.value]
        kind = conversion(c.src, c.dst)[0]
        fusible = kind in ("all_to_all", "all_gather") and not _same_dim(c)
        key = (kind, depth[c.value], _travels_as(v.dtype), v.diff, _word(c.dst)) if fusible else (i,)
        groups.setdefault(key, []).append(c)
    return tuple(tuple(g) for g in groups.values())


def _travels_as(dtype: torch.dtype) -> torch.dtype:
    """Complex numbers travel as pairs of real ones."""
    return dtype.to_real() if dtype.is_complex else dtype


def _same_dim(c: Change) -> bool:
    """A change between two parts of one dim is a gather and a cut, and travels alone."""
    return isinstance(c.src, Split) and isinstance(c.dst, Split) and c.src.dim == c.dst.dim


def _word(p) -> str:
    return "split" if isinstance(p, Split) else p.value


def _depths(problem: Problem, changes, chosen, placements) -> dict[int, int]:
    """Per value, how many communicating changes lie on the longest way to it."""
    moved = {(c.value, c.dst) for c in changes if conversion(c.src, c.dst)[0] not in ("none", "slice")}
    depth = {v.id: 0 for v in problem.values}
    op: Op
    for op, s in chosen.items():
        reached = [depth[v.id] + ((v.id, need) in moved) for v, need in zip(op.operands, s.needs)]
        for r in op.results:
            depth[r.id] = max(reached, default=0)
    return depth
