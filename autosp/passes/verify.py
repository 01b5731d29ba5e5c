"""What must hold of a program at the end of a stage; what runs is held against it."""

from __future__ import annotations

from ..capture.legality import illegal
from ..errors import CheckError
from ..lower import check, check_bands, check_groups
from ..recompute import check_tiles
from .program import Context, Program


def verify_global(before: Program, program: Program, context: Context) -> None:
    """The global graph holds what the passes know: raises CheckError (`autosp.capture.legality`)."""
    if faults := illegal(program.captured):
        raise CheckError(faults[:10])


def verify_local(before: Program, program: Program, context: Context) -> None:
    """The local graph is the plan's: raises CheckError with every fault (`autosp.lower.checker`)."""
    check(program.plan, program.local, complete=context.rank.complete, grad_scale=context.rank.grad_scale)


def verify_groups(before: Program, program: Program, context: Context) -> None:
    """Attentions in groups read what was repeated: raises CheckError (`autosp.lower.grouped`)."""
    if program.grouped:
        check_groups(before.local, program.local)


def verify_windows(before: Program, program: Program, context: Context) -> None:
    """A window's queries see in blocks what they saw: raises CheckError (`autosp.lower.band_check`)."""
    if program.windows:
        check_bands(before.local, program.local)


def verify_tiles(before: Program, program: Program, context: Context) -> None:
    """The graph in tiles computes what it did before: raises CheckError (`autosp.recompute.tile_check`)."""
    if program.cut is not None:
        check_tiles(program.cut, program.local, program.captured.hints)
