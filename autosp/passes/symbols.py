"""Where modules have to run per shard, lengths have to be symbols: a caller traces once more."""

from __future__ import annotations

import attrs
import sympy

from ..capture import Captured
from ..capture.regions import lengths_of
from ..errors import RuleError
from ..solve import Around, NeedsRule


class NeedsSymbols(Exception):
    """Modules may have to run per shard, so the lengths must be symbols in the trace. around: the modules."""

    def __init__(self, found: tuple[Around, ...], refusal: NeedsRule):
        super().__init__(str(refusal))
        self.around, self.refusal = found, refusal


def has_symbols(captured: Captured, axis: str) -> bool:
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
