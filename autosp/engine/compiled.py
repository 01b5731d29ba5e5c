"""What it took to compile a program, and what of it was there already."""

from __future__ import annotations

import attrs

from ..compat.torch import compile_counters


@attrs.frozen
class Compiled:
    """A program's way to its first run.

    planning: seconds until there was a graph for this rank, with what is saved for the backward. compiling: seconds
    of its compiler (Inductor compiles a backward when it first runs, which is not in it). file: the saved plan that it
    runs by, "" where it was planned. before: what `cache_counts` gave in this process when it began.
    """

    planning: float
    compiling: float
    file: str
    before: tuple[int, int, int]

    def __str__(self) -> str:
        how = f"by the plan in '{self.file}'" if self.file else "solved"
        hits, misses, whole = (now - then for now, then in zip(cache_counts(), self.before, strict=True))
        graphs = f"; Inductor's cache: {hits} hits, {misses} misses since" if hits or misses else ""
        program = "; the whole was in PyTorch's cache" if whole else ""
        return f"compile  planned in {self.planning:.1f} s ({how}), compiled in {self.compiling:.1f} s{graphs}{program}"


def cache_counts() -> tuple[int, int, int]:
    """In this process: hits and misses of Inductor's cache of graphs, and hits of PyTorch's cache of whole programs,
    whose trace a hit saves too."""
    graphs, programs = compile_counters["inductor"], compile_counters["aot_autograd"]
    return graphs["fxgraph_cache_hit"], graphs["fxgraph_cache_miss"], programs["autograd_cache_hit"]
