"""Symbolic sizes become the example's numbers, where the plan is for its lengths alone.

Before: view(x, [s0, s1, 8, 64]). After: view(x, [2, 128, 8, 64]); inside mapped modules they stay symbols.
"""

from __future__ import annotations

import attrs

from ..capture.regions import for_the_example
from .program import Context, Program


def specialize(program: Program, context: Context) -> Program:
    """The program for the lengths of its example; as it is where they stay symbols, or are numbers already."""
    if context.dynamic or not program.captured.hints:
        return program
    return attrs.evolve(program, captured=for_the_example(program.captured))
