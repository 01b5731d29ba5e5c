"""The spec's `constrain` statements become calls in the graph, which the solver keeps to.

Before: y = linear(x, w), the output of model.layers.0.mlp. After: constrain(y, "[batch, seq, hidden]").
"""

from __future__ import annotations

from ..capture.constraints import constrain_modules
from .program import Context, Program


def constrain(program: Program, context: Context) -> Program:
    """The program with `context.constraints`. Raises CaptureError where a path names no module that is called, or the
    module has no such value."""
    constrain_modules(program.captured.graph, context.constraints, program.captured.names)
    return program
