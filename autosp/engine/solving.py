"""From a captured program to its plan, with the modules that run per shard found on the way, and those that the spec
maps tried: the one way to a plan of `compile`, `plan`, `check`, `parity` and the simulator."""

from __future__ import annotations

from collections.abc import Callable

import attrs
import sympy

from ..capture import Captured
from ..capture.regions import for_the_example, lengths_of
from ..errors import RuleError
from ..recompute.tile_hoist import hoisted
from ..solve import Around, Device, Ends, NeedsRule, Plan, around, mapped, solve, tried


class NeedsSymbols(Exception):
    """Modules may have to run per shard, so the lengths must be symbols in the trace. around: the modules."""

    def __init__(self, found: tuple[Around, ...], refusal: NeedsRule):
        super().__init__(str(refusal))
        self.around, self.refusal = found, refusal


def planned_program(
    captured: Captured,
    wanted: Callable[[Captured], Ends],
    *,
    axis: str,
    p: int,
    device: Device,
    refused: tuple[Around, ...] = (),
    dynamic: bool = False,
) -> tuple[Captured, Plan, tuple[Around, ...]]:
    """The program that was planned, its plan, and the operators around which modules run per shard.

    captured: with symbols for its lengths where a module runs per shard. dynamic: the plan keeps them. refused: what is
    known to need one. Raises NeedsSymbols where one has to and there are none, PlanError where a `map` of the spec is
    shown to be wrong (`autosp.solve.stated`), and what `solve` and `mapped` raise.
    """
    while True:
        program, notes = captured, ()
        if refused:
            program, notes = mapped(captured, refused, axis=axis, p=p, dynamic=dynamic)
        program = hoisted(for_the_example(program) if captured.hints and not dynamic else program)
        try:
            plan = solve(program, wanted(program), axis=axis, p=p, device=device)
            notes = (*plan.notes, *notes, *tried(plan.problem, p))
            return program, attrs.evolve(plan, notes=notes), refused
        except NeedsRule as refusal:
            more = tuple(each for each in around(refusal) if each not in refused)
            if not more:
                raise
            if not _has_symbols(captured, axis):
                raise NeedsSymbols(more, refusal) from refusal
            refused = (*refused, *more)


def _has_symbols(captured: Captured, axis: str) -> bool:
    """Whether every length that is split over the axis is a symbol."""
    sizes = lengths_of(captured.graph, captured.layouts)
    parts = [part for layout in captured.layouts.values() for dim in layout.dims for part in dim.parts]
    return all(isinstance(sizes.get(part.name), sympy.Symbol) for part in parts if axis in part.axes)


def fixed_lengths(needed: NeedsSymbols) -> RuleError:
    """The refusal where a caller's own trace holds the lengths as numbers."""
    module = needed.around[0].calls[0][1]
    fix = (
        f"let the lengths be symbols, so that module {module} may run on a rank's shard: autosp.compile marks the "
        "inputs that the spec names; with autosp.backend call torch._dynamo.maybe_mark_dynamic(tensor, dim) yourself"
    )
    return RuleError([attrs.evolve(problem, fix=fix) for problem in needed.refusal.problems])
