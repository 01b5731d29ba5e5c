"""What is taken from a saved plan, and from the group's first rank: nothing is solved twice."""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable, Mapping

import attrs

from ..errors import PlanError
from ..solve import Answer, Plan
from ..solve.problem import Problem
from . import messages
from .agree import Agreement, FirstFailed
from .plan_file import INPUT, MODE, PlanFile


@attrs.define
class Reuse:
    """The saved plan of a compiled model, if any. used: a program runs by it, path: the last does, "" where it does not;
    warned: that others do not."""

    file: PlanFile | None = None
    used: bool = False
    path: str = ""
    warned: bool = False

    def of(self, now: Mapping[str, str]) -> PlanFile | None:
        """The saved plan, where it is one for what is compiled now. Other lengths than its own, once a program has run
        by it, and evaluation between training steps are planned anew. Raises PlanError where it is stale."""
        self.path, differences = "", {} if self.file is None else self.file.differences(now)
        if self.file is None or MODE in differences:
            return None
        if not differences:
            self.used, self.path = True, self.file.path
            return self.file
        if all(name.startswith(INPUT) for name in differences) and (self.used or self.file.varies):
            if self.used and not self.warned:
                self.warned = True
                warnings.warn(messages.other_inputs(self.file.path, differences), stacklevel=2)
            return None
        raise PlanError(messages.stale(self.file.path, differences))


def confirm(file: PlanFile | None, plan: Plan) -> None:
    """Raises PlanError where the plan is not the one that was saved: the program has changed."""
    if file is not None and plan.fingerprint() != file.fingerprint:
        raise PlanError(messages.stale(file.path, {"the model's program": (file.graph, plan.problem.digest())}))


def settled(file: PlanFile | None, agreement: Agreement, problem: Problem, search: Callable[[], Answer]) -> Answer:
    """The solver's answer: the saved one, or what the first rank finds; where that is to another program, which is told
    of later, or the first rank failed, this rank's own."""
    digest = problem.digest()
    saved = file.answer if file is not None and file.graph == digest else None

    def first() -> str:
        return json.dumps([digest, search() if saved is None else saved])

    try:
        theirs, answer = json.loads(agreement.from_first_rank("plan", first))
    except FirstFailed:
        return search()
    return tuple(answer) if theirs == digest else search()
