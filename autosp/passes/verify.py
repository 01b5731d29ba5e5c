"""What must hold of a program at the end of a stage; what runs is held against it."""

from __future__ import annotations

from ..lower import check
from .program import Context, Program


def verify_local(program: Program, context: Context) -> None:
    """The local graph is the plan's: raises CheckError with every fault (`autosp.lower.check`)."""
    check(program.plan, program.local, complete=context.rank.complete, grad_scale=context.rank.grad_scale)
