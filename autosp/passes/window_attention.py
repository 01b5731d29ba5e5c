"""Attention over a sliding window runs block by block, each block of queries on the keys that it sees.

Before: attention(q, k, v, mask) with a mask of 4096 x 4096. After: a call for each block, with a mask of 512 x 1023.
"""

from __future__ import annotations

import attrs

from ..capture.copies import copy_graph
from ..lower import BAND, band
from .program import Context, Program


def window_attention(program: Program, context: Context) -> Program:
    """The local graph with its windows in blocks; lengths that are symbols keep their mask."""
    if not any(BAND in node.meta for node in program.local.graph.nodes):
        return program
    local = copy_graph(program.local)
    return attrs.evolve(program, local=local, windows=band(local))
