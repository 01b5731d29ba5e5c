"""The plan becomes one rank's graph: operators on shards, and functional collectives between them.

Before: linear(x, w) of [2, 128, 512]. After: linear(x, w) of [2, 32, 512]; convert((q, k, v), split seq, split heads).
"""

from __future__ import annotations

import attrs

from ..lower import lower
from .program import Context, Program


def lower_to_rank(program: Program, context: Context) -> Program:
    """The graph of `context.rank`."""
    return attrs.evolve(program, local=lower(program.plan, context.rank))
