"""What must hold of a program at the end of a stage; what runs is held against it."""

from __future__ import annotations

from ..lower import check
from ..recompute import check_tiles
from .program import Context, Program


def verify_local(program: Program, context: Context) -> None:
    """The local graph is the plan's: raises CheckError with every fault (`autosp.lower.check`)."""
    check(program.plan, program.local, complete=context.rank.complete, grad_scale=context.rank.grad_scale)


def verify_tiles(program: Program, context: Context) -> None:
    """The graph in tiles computes what it did before: raises CheckError (`autosp.recompute.tile_check`)."""
    if program.cut is not None:
        check_tiles(program.cut, program.local, program.captured.hints)
