"""What a plan may not gather: a split value for want of a rule, or for a size that the data tell."""

from __future__ import annotations

from collections.abc import Mapping

from ..errors import PlanError, RuleError
from ..errors import Problem as Fault
from ..layout import Split
from .own import refused
from .problem import Op, Problem, of_data
from .words import needs_rule, of_data_size


class NeedsRule(RuleError):
    """Operators without a rule on split values, each with what is wrong."""

    def __init__(self, faults: Mapping[Op, Fault]):
        super().__init__(faults.values())
        self.faults = dict(faults)

    def __reduce__(self):
        return RuleError, (self.problems,)


def refuse_gathering(problem: Problem, changes, chosen, axis: str) -> None:
    """A split value is not made whole for want of a rule, or of a size."""
    gathered = {(c.value, c.dst) for c in changes if isinstance(c.src, Split)}
    faults: dict[Op, Fault] = {}
    own, unsized = False, []
    for op, s in chosen.items():
        incomplete = op.own is not None and op.own.missing and s.part is None
        if op.projection is None or incomplete:
            values = [v for v, need in zip(op.operands, s.needs) if (v.id, need) in gathered]
            if values and (incomplete or op.error is not None):
                faults[op] = refused(op, values[0].name) if incomplete else needs_rule(op, values)
                own |= incomplete
        gathers = [v for v, need in zip(op.operands, s.needs) if v.diff and (v.id, need) in gathered]
        if gathers and op not in faults and (not op.results or any(of_data(n) for v in op.results for n in v.shape)):
            unsized.append(of_data_size(op, gathers[0], axis))
    if own:  # whose own backward is not known to be one of a shard
        raise RuleError(faults.values())
    if faults:
        raise NeedsRule(faults)
    if unsized:
        raise PlanError(unsized)
