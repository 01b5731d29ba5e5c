"""What is saved for the backward, and what is computed again in it.

Before: a local graph. After: the same, and a `Decision` that the compiler's partitioner follows.
"""

from __future__ import annotations

import attrs

from .program import Context, Program


def choose_saved(program: Program, context: Context) -> Program:
    """The decision of `context.choose`."""
    if context.choose is None:
        return program
    return attrs.evolve(program, decision=context.choose(program.plan, program.local))
