"""Every value gets a sharding, and every change of it a place: the solver's plan.

Before: a global graph with layouts of its inputs. After: the same graph, with `plan.shardings` and `plan.changes`.
"""

from __future__ import annotations

import attrs

from ..solve import solve, tried
from .program import Context, Program


def shard(program: Program, context: Context) -> Program:
    """The plan. Raises NeedsRule for operators without a rule that would gather a split value, and PlanError where a
    `map` of the spec is shown to be wrong."""
    ends = context.ends(program.captured)
    plan = solve(program.captured, ends, axis=context.axis, device=context.device, settle=context.settle)
    notes = (*plan.notes, *program.notes, *tried(plan.problem))
    return attrs.evolve(program, plan=attrs.evolve(plan, notes=notes), notes=())
