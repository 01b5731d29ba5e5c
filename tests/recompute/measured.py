"""Bytes that a program really holds, by storages: for tests and benchmarks, on the CPU."""

from __future__ import annotations

import weakref
from collections.abc import Iterable

import torch
from torch.utils._python_dispatch import TorchDispatchMode


class Tracker(TorchDispatchMode):
    """Counts the storages that operators make while it is on, until nothing holds them.

    held: tensors that are not counted (parameters, inputs). `peak` is the most at any one time,
    after any operator, gradients of parameters included.
    """

    def __init__(self, held: Iterable[torch.Tensor] = ()):
        super().__init__()
        self.now = self.peak = 0
        self._known = weakref.WeakSet()
        self._skipped = {x.untyped_storage().data_ptr() for x in held}

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        for x in torch.utils._pytree.tree_leaves(out):
            if isinstance(x, torch.Tensor):
                self._see(x.untyped_storage())
        self.peak = max(self.peak, self.now)
        return out

    def _see(self, storage: torch.UntypedStorage) -> None:
        if storage in self._known or storage.data_ptr() in self._skipped:
            return
        self._known.add(storage)
        size = storage.nbytes()
        self.now += size
        weakref.finalize(storage, self._gone, size)

    def _gone(self, size: int) -> None:
        self.now -= size
