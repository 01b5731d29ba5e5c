"""Modules around operators without a rule become one call each, where a run proves that positions do not mix in them.

Before: sort, index, grouped_mm, index_add (a mixture's experts, in 40 calls). After: mapped_model_layers_0_mlp_experts,
one call, which a rank runs on its shard. Modules that the spec maps are one call since they were captured.
"""

from __future__ import annotations

import attrs

from ..solve import mapped
from .program import Context, Program


def outline_mapped(program: Program, context: Context) -> Program:
    """The modules of `context.mapped`, as calls. Raises RuleError where positions mix."""
    if not context.mapped:
        return program
    captured, notes = mapped(
        program.captured, context.mapped, axis=context.axis, p=context.ranks, dynamic=context.dynamic
    )
    return attrs.evolve(program, captured=captured, notes=(*program.notes, *notes), mapped=context.mapped)
