"""What a user reads of a plan: its text, whether it fits, and the longest sequence that does."""

from __future__ import annotations

import os
from collections.abc import Callable

import attrs

from ..errors import PlanError
from .messages import explain, summary
from .plan import Solution, no_memory, nothing_to_save


@attrs.frozen(eq=False)
class Plan(Solution):
    """A layout per value, a reshard per edge, and why; its fields are those of `Solution`. A plan knows no rank."""

    def __deepcopy__(self, memo: dict) -> Plan:
        """The plan itself, which nothing changes: a copy of the model that holds it has the same."""
        return self

    def __reduce__(self) -> tuple:
        """None: a plan holds graphs that belong to its process. A model that is saved has none until its next step."""
        return type(None), ()

    _longest: Callable[[], Plan | None] | None = attrs.field(default=None, repr=False)
    _saver: Callable[[str | os.PathLike], None] | None = attrs.field(default=None, repr=False)

    def longest(self) -> Plan | None:
        """The plan for the longest sequence that fits; None where no length does.

        Takes a capture, a solution and a prediction for each length that is tried, and says so on
        stderr. Raises PlanError where no memory was predicted.
        """
        if self._longest is None:
            raise PlanError(no_memory("max_seq_len"))
        return self._longest()

    def max_seq_len(self) -> int:
        """The length of `longest()`, a multiple of 1024; 0 where no length fits."""
        plan = self.longest()
        return plan.length if plan else 0

    def save(self, path: str | os.PathLike) -> None:
        """Writes the plan, for `autosp.compile(..., plan=path)` to run by: versioned JSON of what was decided and what
        it was decided for. Raises PlanError for a plan that was not made by `autosp.plan` or a compiled model.
        """
        if self._saver is None:
            raise PlanError(nothing_to_save())
        self._saver(path)

    def summary(self) -> str:
        """The plan in a few lines: where each collective stands, alike ones of repeated layers together."""
        return summary(self)

    def explain(self) -> str:
        """The summary, and what a rank holds at the peak, where that was predicted."""
        return explain(self)
