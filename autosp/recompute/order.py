"""The order in which a compiler runs the kernels of a program.

Inductor tries four and takes the one with the least peak (`_inductor/memory.py`,
`reorder_for_peak_memory`): its own after fusion, least peak memory first, breadth first, and depth
first by bytes. The same four here, over `Run`s.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Collection, Sequence

from .joint import Storage
from .runs import Run, expected

Order = list[int]


def ordered(runs: Sequence[Run], start: Sequence[Storage], keep: Collection[int]) -> tuple[Run, ...]:
    """The runs in the best of the four orders.

    runs: as they come, not always after those that they need. start: storages that are there at the
    beginning and are freed after their last reader. keep: storages that are never freed.
    """
    graph = _Graph(runs, start, keep)
    first = graph.depth_first(range(len(runs)))
    graph = _Graph([runs[i] for i in first], start, keep)
    tries: tuple[Callable[[], Order], ...] = (graph.as_it_is, graph.least_memory, graph.breadth_first, graph.by_bytes)
    orders = (tuple(graph.runs[i] for i in order()) for order in tries)
    return min(orders, key=lambda runs: int(expected(runs, start, keep).max(initial=0)))  # the first of equals


class _Graph:
    """Who makes what, who reads it, and how many bytes it is."""

    def __init__(self, runs: Sequence[Run], start: Sequence[Storage], keep: Collection[int]):
        self.runs, self.keep = list(runs), keep
        self.maker = {s.id: i for i, r in enumerate(runs) for s in r.makes}
        self.bytes = {s.id: s.bytes for r in runs for s in r.makes} | {s.id: s.bytes for s in start}
        self.start = {s.id for s in start}
        self.reads = [[s.id for s in r.needs if s.id in self.bytes] for r in runs]
        self.needs = [sorted({self.maker[i] for i in ids if i in self.maker} - {k}) for k, ids in enumerate(self.reads)]
        self.users: list[set[int]] = [set() for _ in runs]
        self.readers: dict[int, list[int]] = {i: [] for i in self.bytes}
        for k, ids in enumerate(self.reads):
            for i in ids:
                self.readers[i].append(k)
            for n in self.needs[k]:
                self.users[n].add(k)
        self.size = [sum(s.bytes for s in r.makes) + r.inside for r in runs]

    def as_it_is(self) -> Order:
        return list(range(len(self.runs)))

    def depth_first(self, order: Sequence[int], turn: Callable[[int], object] | None = None) -> Order:
        """Each in turn, behind all that it needs. turn: the order among these."""
        seen: set[int] = set()
        result: Order = []
        for k in order:
            stack = [(k, False)]
            while stack:
                n, ready = stack.pop()
                if ready:
                    result.append(n)
                elif n not in seen:
                    seen.add(n)
                    stack.append((n, True))
                    stack += [(m, False) for m in reversed(sorted(self.needs[n], key=turn)) if m not in seen]
        return result

    def by_bytes(self) -> Order:
        """`topological_sort_dfs`: the ones that touch the fewest bytes first, each behind all that it needs."""
        touched = [n + sum(self.bytes[i] for i in ids) for n, ids in zip(self.size, self.reads, strict=True)]
        key = {k: (touched[k], k) for k in range(len(self.runs))}
        return self.depth_first(sorted(key, key=key.__getitem__), key.__getitem__)

    def breadth_first(self) -> Order:
        """`topological_sort_bfs`: the one whose needs ran the earliest."""
        waiting = [len(n) for n in self.needs]
        at: dict[int, int] = {}
        heap = [([], k) for k, n in enumerate(waiting) if not n]
        heapq.heapify(heap)
        while heap:
            _, k = heapq.heappop(heap)
            at[k] = len(at)
            for u in sorted(self.users[k]):
                waiting[u] -= 1
                if not waiting[u]:
                    heapq.heappush(heap, (sorted(at[n] for n in self.needs[u]), u))
        return list(at)

    def least_memory(self) -> Order:
        """`topological_sort_lpmf`: below the peak so far, the one that leaves the least; else the one that takes the least."""
        waiting = [len(n) for n in self.needs]
        ready = {k for k, n in enumerate(waiting) if not n}
        left = {i: len(ks) + (i in self.keep) for i, ks in self.readers.items()}
        frees = [
            sum(self.bytes[i] for i in ids if left[i] == 1)
            + sum(s.bytes for s in r.makes if left[s.id] == 0)
            + r.inside
            for ids, r in zip(self.reads, self.runs, strict=True)
        ]
        now = sum(self.bytes[i] for i in self.start)
        most = max(now, sum(self.bytes[i] for i in self.keep if i in self.bytes))
        gap, result = most - now, []
        while ready:
            k = min(ready, key=lambda n: (self.size[n] if self.size[n] > gap else 0, self.size[n] - frees[n], n))
            ready.remove(k)
            result.append(k)
            now += self.size[k]
            most = max(most, now)
            now -= frees[k]
            gap = most - now
            for u in self.users[k]:
                waiting[u] -= 1
                if not waiting[u]:
                    ready.add(u)
            for i in self.reads[k]:
                left[i] -= 1
                if left[i] == 1:
                    for u in self.readers[i]:
                        frees[u] += self.bytes[i]
        return result
