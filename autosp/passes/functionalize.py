"""Operators that write in place become functional ones; what a buffer is given becomes an output.

Before: add_(x, y); mul(x, 2). After: z = add(x, y); mul(z, 2). Every later read of x or of a view of it follows z.
"""

from __future__ import annotations

import attrs

from ..capture import GraphOutput
from ..capture.functional import functionalise
from .program import Context, Program


def functionalize(program: Program, context: Context) -> Program:
    """The program without writes. Raises CaptureError for a write that has no functional form."""
    captured = program.captured
    written = functionalise(captured.graph, captured.placeholders, captured.training, captured.hints)
    buffers = (GraphOutput(i, buffer=name) for i, name in enumerate(written, start=len(captured.outputs)))
    return attrs.evolve(program, captured=attrs.evolve(captured, outputs=(*captured.outputs, *buffers)))
