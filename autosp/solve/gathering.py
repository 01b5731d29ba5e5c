"""What a plan may not gather: a split value for want of a rule, or for a size that the data tell."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from ..errors import PlanError, RuleError
from ..errors import Problem as Fault
from ..sharding import Split
from .messages import needs_rule, of_data_size
from .own import refused
from .problem import Op, Problem, Value, of_data
from .strategies import Strategy


class NeedsRule(RuleError):
    """Operators without a rule on split values, each with what is wrong."""

    def __init__(self, faults: Mapping[Op, Fault]):
        super().__init__(faults.values())
        self.faults = dict(faults)

    def __reduce__(self) -> tuple[Any, ...]:
        return RuleError, (self.problems,)


def refuse_gathering(problem: Problem, ways, changes, chosen) -> None:
    """A split value is not made whole for want of a rule, or of a size: neither by the operator itself, nor before it
    by one that only moves data. ways: the strategies of each operator."""
    gathered = {(c.value, c.dst) for c in changes if isinstance(c.src, Split)}
    faults: dict[Op, Fault] = {}
    own, unsized = False, []
    for op, s in chosen.items():
        if _unruled(op, s):
            values = [v for v, need in zip(op.operands, s.needs) if (v.id, need) in gathered]
            if values and (_incomplete(op, s) or op.error is not None):
                name = values[0].name
                faults[op] = refused(op, name) if _incomplete(op, s) else needs_rule(op, name)
                own |= _incomplete(op, s)
        gathers = [v for v, need in zip(op.operands, s.needs) if v.diff and (v.id, need) in gathered]
        if gathers and op not in faults and (not op.results or any(of_data(n) for v in op.results for n in v.shape)):
            unsized.append(of_data_size(op, gathers[0], problem.axis.name))
    for op, operand, source in _gathered_before(ways, changes, chosen):
        incomplete = _incomplete(op, chosen[op])
        if op not in faults and (incomplete or op.error is not None):
            name = f"{operand.name}, which is made of {source.name},"
            faults[op] = refused(op, name) if incomplete else needs_rule(op, name)
            own |= incomplete
    if own:  # whose own backward is not known to be one of a shard
        raise RuleError(faults.values())
    if faults:
        raise NeedsRule(faults)
    if unsized:
        raise PlanError(unsized)


def _incomplete(op: Op, s: Strategy) -> bool:
    """A call with a backward of its own that runs whole, and calls an operator without a rule."""
    return op.own is not None and bool(op.own.missing) and s.part is None


def _unruled(op: Op, s: Strategy) -> bool:
    return op.projection is None or _incomplete(op, s)


def _gathered_before(ways, changes, chosen) -> Iterator[tuple[Op, Value, Value]]:
    """Operators without a rule whose operand would be split, had an operator before not run whole; with that operand
    and the value that was made whole there. Where a rule between needs the value whole, no split reaches them."""
    sources: dict[tuple, list[Split]] = {}
    for c in changes:
        if isinstance(c.src, Split) and not isinstance(c.dst, Split):
            sources.setdefault((c.value, c.dst), []).append(c.src)
    for op, s in chosen.items():
        if s.part is None and not _unruled(op, s):
            for i, (source, need) in enumerate(zip(op.operands, s.needs, strict=True)):
                for split in sources.get((source.id, need), ()):
                    for user, operand in _reached(ways, chosen, op, i, split):
                        yield user, operand, source


def _reached(ways, chosen, op: Op, operand: int, split: Split) -> Iterator[tuple[Op, Value]]:
    """The operators without a rule that a split would reach from one operand on, through what runs whole."""
    pending, seen = [(op, operand, split)], set()
    while pending:
        at = pending.pop()
        if at in seen:
            continue
        seen.add(at)
        op, operand, split = at
        for way in ways[op]:
            gives = zip(op.results, way.gives, strict=True) if way.needs[operand] == split else ()
            for value, give in gives:
                for user, i in value.users if isinstance(give, Split) else ():
                    if _unruled(user, chosen[user]):
                        yield user, value
                    elif chosen[user].part is None:
                        pending.append((user, i, give))
