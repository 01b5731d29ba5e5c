"""What runs at once in a program: one operator, or the operators of one kernel."""

from __future__ import annotations

from collections.abc import Iterable

import attrs
from torch import fx

from .compiler import Place
from .joint import Joint, Storage
from .scratch import scratch


@attrs.frozen(eq=False)
class Run:
    """Operators that run as one.

    needs: the storages that they read; makes: those that they leave. inside: bytes of what one of
    them makes for the others alone, which no memory holds. kernel: whether the compiler wrote it. own: bytes that it takes
    for itself while it runs. over: pairs of one that they make and one that they
    read, element by element: if nothing reads that any more, the new one takes its place.
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
