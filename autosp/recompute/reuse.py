"""Memory that a compiled program keeps for a later value of the same size instead of giving it back.

Inductor (`codegen/wrapper.py`, `AllocateLine.should_reuse_buffer`) gives a value that is made the place of
the last one of its bytes and dtype that was freed, however long ago, unless the peak that it expects
would rise by holding that place in between.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence

import numpy as np

from ..rules import is_a
from .joint import Storage
from .runs import Run, expected, last_touch


def reserved_bytes(runs: Sequence[Run], start: Sequence[Storage], keep: Collection[int]) -> list[int]:
    """For every run, the bytes that are held for a later value while it runs.

    start: the storages that are there at the beginning: they are given back, never used again.
    keep: those that are never freed.
    """
    ends = last_touch(runs)
    replaced = {old.id for t, run in enumerate(runs) for _, old in run.over if ends.get(old.id) == t}
    there = expected(runs, start, keep)
    peak = int(there.max(initial=0))
    waiting = np.zeros(len(runs), dtype=np.int64)
    pool: dict[tuple, list[int]] = {}
    freed: dict[int, list[tuple]] = {}
    for s in (s for run in runs for s in run.makes):
        if s.id not in keep and s.id not in replaced:
            freed.setdefault(ends[s.id], []).append(_key(s))
    for t, run in enumerate(runs):
        new = {s.id for s, old in run.over if old.id in replaced}
        for s in run.makes:
            places = pool.get(_key(s))
            if s.id in new or not places or not _is_allocated(run):
                continue
            since = places[-1]
            if since + 1 == t or s.bytes + int(there[since + 1 : t].max(initial=0)) <= peak:
                places.pop()
                there[since + 1 : t] += s.bytes
                waiting[since + 1 : t] += s.bytes
        for key in freed.get(t, ()):
            pool.setdefault(key, []).append(t)
    return waiting.tolist()


def _key(s: Storage) -> tuple:
    val = s.head.meta.get("val")
    return s.bytes, getattr(val, "dtype", None)


def _is_allocated(run: Run) -> bool:
    """Whether the compiler allocates what the run makes: kernels, and products that write where they are told."""
    return run.kernel or any(is_a(n, "allocated") for n in run.nodes)
