"""Wide values are computed a few tokens at a time, in the forward and again in the backward.

Before: cross_entropy(linear(x, w)) with logits of 32768 x 128256. After: a linear and a sum of losses for each of 64
tiles of 512 tokens, and the sum of those. The loss, MLPs and masks, as the spec's `tile` lines ask.
"""

from __future__ import annotations

import attrs

from ..recompute import tilings
from .program import Context, Program


def tile(program: Program, context: Context) -> Program:
    """The local graph in tiles. Without gradients nothing waits for a backward, and it stays as it is."""
    if not program.captured.training:
        return program
    made = tilings(program.local, context.tiles, program.captured.hints, context.budget)
    return attrs.evolve(
        program, local=made.local, cut=made.whole, tiled=made.tiled, notes=(*program.notes, *made.notes)
    )
