"""Attention over a sliding window runs block by block, each block of queries on the keys that it sees.

Before: attention(q, k, v, mask) with a mask of 4096 x 4096. After: a call for each block, with a mask of 512 x 1023.
"""

from __future__ import annotations

import attrs

from ..lower import band
from .program import Context, Program


def window_attention(program: Program, context: Context) -> Program:
    """The local graph with its windows in blocks; lengths that are symbols keep their mask."""
    return attrs.evolve(program, windows=band(program.local))
