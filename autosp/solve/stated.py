"""What a spec's `map` statements claim of its modules, tried as where nobody had mapped them.

A statement that is shown to be wrong is an error at its line. Where a module cannot be tried (it draws random numbers,
does not run on random data, takes too much memory even in a smaller size) its author is believed: the plan says so.
"""

from __future__ import annotations

from collections.abc import Iterator

import attrs

from ..capture.regions import KEY, Mapped
from ..errors import PlanError
from ..errors import Problem as Fault
from ..spec import Map
from ..spec.messages import map_mixes
from ..spec.paths import starred
from ..syntax import problem_at
from .positionwise import Independence, positionwise
from .problem import Problem


@attrs.frozen
class Claim:
    """What came of one statement in one kind of module. path: of the first such module; source: of its code."""

    statement: Map
    path: str
    source: str
    verdict: Independence

    @property
    def fault(self) -> Fault | None:
        """The error at the statement's line, where positions mix."""
        if not self.verdict.mixes:
            return None
        problem = problem_at(self.statement.at, *map_mixes(self.path, self.statement.over, self.verdict.why))
        return attrs.evolve(problem, where=problem.where or self.source or self.path)


def claims(problem: Problem, p: int) -> Iterator[Claim]:
    """Every kind of module that a statement maps, tried over `p` ranks; equal modules are tried once.

    problem: marked, so that mapped calls have their factors.
    """
    known = set()
    for op in problem.ops:
        mapped: Mapped | None = op.node.meta.get(KEY)
        if mapped is None or mapped.statement is None:
            continue
        verdict = positionwise(op, problem.hints, p)
        kind = mapped.statement, starred(mapped.path), id(verdict)
        if kind not in known:
            known.add(kind)
            yield Claim(mapped.statement, mapped.path, op.source, verdict)


def tried(problem: Problem) -> tuple[str, ...]:
    """A line on every statement that could not be tried. Raises PlanError for all that are wrong."""
    p = problem.axis.size
    made = tuple(claims(problem, p)) if p > 1 else ()
    if faults := [each.fault for each in made if each.fault is not None]:
        raise PlanError(dict.fromkeys(faults))
    unproved = (each for each in made if not each.verdict.proved)
    return tuple(f"{each.statement}: taken as stated at {each.path}: {each.verdict.why}" for each in unproved)
