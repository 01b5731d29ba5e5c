"""What runs at once in a program: one operator, or the operators of one kernel."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence

import attrs
import numpy as np
from torch import fx

from .compiler import Place
from .joint import Joint, Storage
from .scratch import scratch


@attrs.frozen(eq=False)
class Run:
    """Operators that run as one.

    needs: the storages that they read; makes: those that they leave. over: pairs of one that they
    make and one that they read, element by element: if nothing reads that any more, the new one takes
    its place. inside: bytes of what one of them makes for the others alone, which no memory holds.
    kernel: whether the compiler wrote it. own: bytes that it takes for itself while it runs.
    """

    nodes: tuple[fx.Node, ...]
    needs: tuple[Storage, ...]
    makes: tuple[Storage, ...]
    over: tuple[tuple[Storage, Storage], ...] = ()
    inside: int = 0
    kernel: bool = False
    own: int = 0

    @property
    def at(self) -> fx.Node:
        """The operator by which a reader knows it."""
        return self.nodes[-1]


def one(joint: Joint, n: fx.Node, device: Place, copies: int = 0) -> Run:
    """An operator for itself. copies: bytes of operands that are copied for it."""
    return Run((n,), joint.needs.get(n, ()), joint.makes.get(n, ()), own=scratch(n, device) + copies)


def one_by_one(joint: Joint, nodes: Iterable[fx.Node], device: Place) -> tuple[Run, ...]:
    """Every operator for itself, as PyTorch runs them without a compiler that fuses."""
    return tuple(one(joint, n, device) for n in nodes)


def last_touch(runs: Sequence[Run]) -> dict[int, int]:
    """For every storage, the last run that makes or reads it."""
    return {s.id: t for t, run in enumerate(runs) for s in (*run.makes, *run.needs)}


def expected(runs: Sequence[Run], start: Sequence[Storage], keep: Collection[int]) -> np.ndarray:
    """Bytes while each run runs, as Inductor expects them: nothing takes another's place.

    start: storages that are there at the beginning; keep: those that are never freed.
    """
    ends, change = last_touch(runs), np.zeros(len(runs) + 2, dtype=np.int64)
    for s in start:
        change[0] += s.bytes
        if s.id not in keep:
            change[ends.get(s.id, len(runs)) + 1] -= s.bytes
    for t, run in enumerate(runs):
        change[t] += run.inside + sum(s.bytes for s in run.makes)
        change[t + 1] -= run.inside
        for s in run.makes:
            if s.id not in keep:
                change[ends[s.id] + 1] -= s.bytes
    return np.cumsum(change)[: len(runs)]
