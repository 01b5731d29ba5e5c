"""Modules that run per shard become one call each: those of the spec's `map`, and those around operators without a rule
where a run proves that positions do not mix in them.

Before: sort, index, grouped_mm, index_add (a mixture's experts, in 40 calls). After: mapped_model_layers_0_mlp_experts,
one call, which a rank runs on its shard.
"""

from __future__ import annotations

import attrs

from ..capture.regions import with_modules_mapped
from ..solve import mapped
from .program import Context, Program


def outline_mapped(program: Program, context: Context) -> Program:
    """The modules of `context.maps` and `context.mapped`, as calls in a graph of its own. Raises CaptureError where a
    statement names no module that is called, RuleError where positions mix."""
    captured, notes = program.captured, ()
    if context.maps:
        captured = with_modules_mapped(captured, context.maps)
    if context.mapped:
        captured, notes = mapped(captured, context.mapped, axis=context.axis, dynamic=context.dynamic)
    return attrs.evolve(program, captured=captured, notes=(*program.notes, *notes), mapped=context.mapped)
