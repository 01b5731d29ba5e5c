"""A policy that is stated in code, in the syntax of a spec."""

from __future__ import annotations

from ..errors import Problem, SpecError, did_you_mean
from ..syntax.source import Source
from .spec import Spec
from .statements import read_statement
from .values import Recompute

MODES = ("none", "sac", "full")


def as_recompute(requested: Recompute | str | None, spec: Spec | None, where: str) -> Recompute:
    """What is recomputed: as requested, `"sac budget auto"` or `"recompute sac budget auto"`; None takes the spec's.

    Raises SpecError, at `where`, for text that is not a policy.
    """
    if requested is None:
        return Recompute() if spec is None else spec.recompute
    if isinstance(requested, Recompute):
        return requested
    words = requested.split()
    words = words[1:] if words[:1] == ["recompute"] else words
    if not words or words[0] not in MODES:
        raise SpecError(_no_mode(requested, where))
    text = " ".join(["recompute", *words])
    return read_statement(Source(where, text), 0, len(text)).value


def _no_mode(requested: str, where: str) -> Problem:
    first = requested.split()[0] if requested.split() else ""
    return Problem(
        what=f"'{requested}' does not say what is recomputed",
        rule="recompute is none, sac, sac budget SIZE (20GiB, 0.5 of what none keeps, auto), or full",
        fix=did_you_mean(first, MODES, "use 'sac budget auto'"),
        where=where,
    )
