"""Four collectives on plain tensors, over a process group or a simulation of one.

A group is named by a string: a `torch.distributed` group name (functional collectives, which
Inductor sees and schedules), or `sim:N`, all of whose ranks are threads of this process.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from typing import ClassVar

import torch

_functional = torch.ops._c10d_functional


class SimGroup:
    """P ranks in one process: each rank's thread calls `exchange` in the same order."""

    _groups: ClassVar[dict[str, SimGroup]] = {}
    _local = threading.local()

    def __init__(self, size: int, timeout: float = 60.0):
        self.size = size
        self.name = f"sim:{id(self)}"
        self._barrier = threading.Barrier(size, timeout=timeout)
        self._slots: list = [None] * size
        self.log: list[list[str]] = []
        self.open()

    def open(self) -> None:
        """Found by its name, and ready for a run, whatever became of the last one."""
        self._barrier.reset()
        self.log = [[] for _ in range(self.size)]
        SimGroup._groups[self.name] = self

    @classmethod
    def find(cls, name: str) -> SimGroup | None:
        return None if getattr(cls._local, "hidden", False) else cls._groups.get(name)

    def enter(self, rank: int) -> None:
        """This thread is `rank` of the group from now on."""
        vars(SimGroup._local).setdefault("ranks", {})[self.name] = rank

    def abort(self) -> None:
        """Wakes every rank that waits for one that failed."""
        self._barrier.abort()

    def close(self) -> None:
        SimGroup._groups.pop(self.name, None)

    def exchange(self, what: str, value):
        """Every rank's value, in rank order."""
        rank = SimGroup._local.ranks[self.name]
        self.log[rank].append(what)
        self._slots[rank] = (what, value)
        self._barrier.wait()
        slots = list(self._slots)
        self._barrier.wait()
        if len({w for w, _ in slots}) > 1:
            raise AssertionError(f"ranks disagree on the collective: {[w for w, _ in slots]}")
        return [v for _, v in slots], rank


@contextlib.contextmanager
def unsimulated() -> Iterator[None]:
    """In this thread no group is a simulated one: collectives on fake tensors wait for no other rank."""
    SimGroup._local.hidden = True
    try:
        yield
    finally:
        SimGroup._local.hidden = False


def all_to_all(x: torch.Tensor, out_sizes: list, in_sizes: list, group: str) -> torch.Tensor:
    """Rows of `x` dealt to the ranks by `in_sizes`; the rows received, in rank order."""
    sim = SimGroup.find(group)
    if sim is not None:
        rows, rank = sim.exchange("all_to_all", (x.detach(), list(in_sizes)))
        return torch.cat([r.split(sizes)[rank] for r, sizes in rows])
    out = _functional.all_to_all_single(x.contiguous(), out_sizes, in_sizes, group)
    return _functional.wait_tensor(out)


def all_gather(x: torch.Tensor, p: int, group: str) -> torch.Tensor:
    """Every rank's `x`, joined along dim 0."""
    sim = SimGroup.find(group)
    if sim is not None:
        return torch.cat(sim.exchange("all_gather", x.detach())[0])
    return _functional.wait_tensor(_functional.all_gather_into_tensor(x.contiguous(), p, group))


def reduce_scatter(x: torch.Tensor, p: int, group: str) -> torch.Tensor:
    """The rank's part, along dim 0, of the sum over ranks."""
    sim = SimGroup.find(group)
    if sim is not None:
        rows, rank = sim.exchange("reduce_scatter", x.detach())
        return torch.stack(rows).sum(0).chunk(p)[rank]
    return _functional.wait_tensor(_functional.reduce_scatter_tensor(x.contiguous(), "sum", p, group))


def all_reduce(x: torch.Tensor, group: str) -> torch.Tensor:
    """The sum over ranks."""
    sim = SimGroup.find(group)
    if sim is not None:
        return torch.stack(sim.exchange("all_reduce", x.detach())[0]).sum(0)
    return _functional.wait_tensor(_functional.all_reduce(x.contiguous(), "sum", group))
