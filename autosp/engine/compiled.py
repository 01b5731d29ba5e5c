"""What it took to compile a program, and what of it was there already."""

from __future__ import annotations

import attrs

from ..compat.torch import compile_counters


@attrs.frozen
class Compiled:
    """A program's way to its first run.

    planning: seconds until there was a graph for this rank, with what is saved for the backward. compiling: seconds
    of its compiler (Inductor compiles a backward when it first runs, which is not in it). file: the saved plan that it
    runs by, "" where it was planned. before: hits and misses of Inductor's cache in this process when it began.
    """

    planning: float
    compiling: float
    file: str
    before: tuple[int, int]

    def __str__(self) -> str:
        how = f"by the plan in '{self.file}'" if self.file else "solved"
        hits, misses = (now - then for now, then in zip(cache_counts(), self.before, strict=True))
        graphs = f"; Inductor's cache: {hits} hits, {misses} misses since" if hits or misses else ""
        return f"compile  planned in {self.planning:.1f} s ({how}), compiled in {self.compiling:.1f} s{graphs}"


def cache_counts() -> tuple[int, int]:
    """Hits and misses of Inductor's cache of graphs in this process."""
    counts = compile_counters["inductor"]
    return counts["fxgraph_cache_hit"], counts["fxgraph_cache_miss"]
