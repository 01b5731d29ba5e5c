"""What is taken from a saved plan, and from the group's first rank: nothing is solved twice."""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable, Mapping

import attrs

from ..errors import StalePlanError
from ..solve import Answer, Plan
from ..solve.problem import Problem
from . import messages
from .agree import Agreement, FirstFailed
from .plan_file import MODE, PlanFile, sizes_alone


@attrs.define
class Reuse:
    """The saved plan of a compiled model, if any. path: its file, where the last program runs by it, else ""; warned:
    that others do not."""

    file: PlanFile | None = None
    path: str = ""
    warned: bool = False

    def of(self, now: Mapping[str, str]) -> PlanFile | None:
        """The saved plan, where it is one for what is compiled now. Inputs of other sizes, and evaluation between training
        steps, are planned anew. Raises StalePlanError where it was made for something else."""
        self.path = ""
        differences = {} if self.file is None else self.file.differences(now)
        if self.file is None or MODE in differences:
            return None
        if differences and not sizes_alone(differences):
            raise StalePlanError(messages.stale(self.file.path, differences))
        if differences and not self.warned:
            self.warned = True
            warnings.warn(messages.other_inputs(self.file.path, differences), stacklevel=2)
        return None if differences else self.file

    def confirm(self, file: PlanFile | None, plan: Plan) -> None:
        """Notes that a program runs by the saved plan. Raises StalePlanError where the program has changed, or what
        became of it."""
        if file is None:
            return
        now = {"the model's program": plan.problem.digest(), "the plan of that program": plan.fingerprint()}
        then = dict(zip(now, (file.graph, file.fingerprint), strict=True))
        for name, text in now.items():
            if then[name] != text:
                raise StalePlanError(messages.stale(file.path, {name: (then[name], text)}))
        self.path = file.path


def settled(
    file: PlanFile | None, agreement: Agreement, spec: str, problem: Problem, search: Callable[[], Answer]
) -> Answer:
    """The solver's answer: the saved one, or what the first rank finds; where that is to another program or spec, which
    is told of later, or the first rank failed, this rank's own."""
    digest = problem.digest()
    saved = file.answer if file is not None and file.graph == digest else None

    def first() -> str:
        return json.dumps([digest, spec, search() if saved is None else saved])

    try:
        *theirs, answer = json.loads(agreement.from_first_rank("plan", first))
    except FirstFailed:
        return search()
    return tuple(answer) if theirs == [digest, spec] else search()
