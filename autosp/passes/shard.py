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
    plan = solve(
        program.captured, context.ends(program.captured), axis=context.axis, p=context.ranks, device=context.device
    )
    notes = (*plan.notes, *program.notes, *tried(plan.problem, context.ranks))
    return attrs.evolve(program, plan=attrs.evolve(plan, notes=notes), notes=())
