"""Keys and values that are repeated to the queries' heads are given to the attention as they were before.

Before: attention(q of 32 heads, k and v of 8 heads, each repeated 4 times). After: attention(q of 32 heads, k and v of 8
heads, enable_gqa=True). Nothing as large as the queries is made, or saved for the backward, but the queries.
"""

from __future__ import annotations

import attrs

from ..capture.copies import copy_graph
from ..lower import group, repetitions
from .program import Context, Program


def group_heads(program: Program, context: Context) -> Program:
    """The local graph with grouped heads, where the kernel of the device has them."""
    if not any(repetitions(node) for node in program.local.graph.nodes):
        return program
    local = copy_graph(program.local)
    grouped = group(local, on_gpu=context.device is not None and context.device.name != "cpu")
    return attrs.evolve(program, local=local, grouped=grouped)
