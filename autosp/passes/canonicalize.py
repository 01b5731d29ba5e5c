"""Operators take the one form whose rule is simple.

Before: cross_entropy(x, t, mean); x.view_as(y); x.type_as(y). After: div(cross_entropy(x, t, sum), count);
view(x, sizes); to(x, dtype).
"""

from __future__ import annotations

from ..capture.canonical import canonicalise
from .program import Context, Program


def canonicalize(program: Program, context: Context) -> Program:
    """The program in canonical forms."""
    canonicalise(program.captured.graph, program.captured.training)
    return program
