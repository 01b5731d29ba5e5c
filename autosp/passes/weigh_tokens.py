"""The loss becomes one mean over the tokens of all data-parallel ranks, where the spec says so.

Before: div(loss sum, count). After: mean_over(div(loss sum, mean_over(count, dp)), dp).
"""

from __future__ import annotations

from ..capture.means import weigh_means
from .program import Context, Program


def weigh_tokens(program: Program, context: Context) -> Program:
    """The program, its means over `context.mean_over` too. Raises CaptureError where it has no mean over tokens."""
    weigh_means(program.captured.graph, context.mean_over)
    return program
