"""Slices of tokens move from behind a head's product to its activation.

Before: logits = linear(x, w); slice(logits, 1, 0, -1). After: linear(slice(x, 1, 0, -1), w). A slice needs the tokens
whole, and then the activation is gathered, not the logits.
"""

from __future__ import annotations

import attrs

from ..recompute.tile_hoist import hoisted
from .program import Context, Program


def hoist_slices(program: Program, context: Context) -> Program:
    """The program with its slices of tokens before its last products: in place, for `specialize` has copied the graph."""
    return attrs.evolve(program, captured=hoisted(program.captured))
