"""Symbolic sizes become the example's numbers, where the plan is for its lengths alone.

Before: view(x, [s0, s1, 8, 64]). After: view(x, [2, 128, 8, 64]); inside mapped modules they stay symbols.
"""

from __future__ import annotations

import attrs

from ..capture.copies import copy_graph
from ..capture.regions import for_the_example
from .program import Context, Program


def specialize(program: Program, context: Context) -> Program:
    """The program for the lengths of its example; as it is where they stay symbols, or are numbers already.

    Its graph is a copy either way, for the passes that follow to change.
    """
    captured = program.captured
    if context.dynamic or not captured.hints:
        return attrs.evolve(program, captured=attrs.evolve(captured, graph=copy_graph(captured.graph)))
    return attrs.evolve(program, captured=for_the_example(captured))
